"""What a lying server can learn on a ring graph, by sets and without cryptography: never a sum of fewer than claimed.

The server tells each client who has shared and who has uploaded as it likes, within what the clients check, sees what
the corrupt ones hold, and takes every sum whose masks it can remove. Strategies are drawn at random, around a victim;
thresholds below the rule, for which some strategy wins, are the control.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from fedsim.privacy.secagg.topology import Adversary, Topology


@dataclass
class Lies:
    """What the server says.

    Attributes:
        clients: Of the ring, 0 to n - 1 in their order there.
        degree: Neighbours of each.
        threshold: Shares that open a secret.
        least: Clients on a list of who has uploaded, or more.
        corrupt: Who is.
        shared: Who has shared, as each honest client is told.
        uploaded: Who has uploaded, as each honest client that is asked to confirm is told.
    """

    clients: int
    degree: int
    threshold: int
    least: int
    corrupt: frozenset[int]
    shared: dict[int, frozenset[int]]
    uploaded: dict[int, frozenset[int]] = field(default_factory=dict)

    def around(self, client: int) -> frozenset[int]:
        half = range(1, self.degree // 2 + 1)
        return frozenset((client + sign * step) % self.clients for step in half for sign in (-1, 1))

    def uploads(self) -> set[int]:
        return {c for c, told in self.shared.items() if len(told & self.around(c)) + 1 >= self.threshold}

    def signed(self) -> dict[int, frozenset[int]]:
        """Return the lists that honest clients sign: with themselves, and with neighbours that have shared only."""
        signed = {}
        for client in self.uploads() & self.uploaded.keys():
            alive = self.uploaded[client]
            near = alive & self.around(client)
            enough = len(near) + 1 >= self.threshold and len(alive) >= self.least
            if enough and client in alive and near <= self.shared[client]:
                signed[client] = alive
        return signed

    def answers(self) -> dict[int, frozenset[int]]:
        """Return the lists by which honest clients give shares: those that a quorum of all has signed."""
        signed = self.signed()
        votes = Counter(signed.values())
        quorum = (self.clients + len(self.corrupt)) // 2 + 1
        return {c: alive for c, alive in signed.items() if votes[alive] + len(self.corrupt) >= quorum}

    def opened(self) -> tuple[set[int], set[int]]:
        """Return whose own mask and whose masks in common the server opens."""
        answers = self.answers()
        own, common = set(), set()
        for client in self.shared:
            holders = self.around(client)
            bad = len(holders & self.corrupt)
            gives = [c for c in holders & answers.keys() if client in self.shared[c]]
            alive = sum(client in answers[c] for c in gives)
            if bad + alive + (client in answers) >= self.threshold:
                own.add(client)
            if bad + len(gives) - alive >= self.threshold:
                common.add(client)
        return own, common

    def learnt(self) -> list[set[int]]:
        """Return the sets of honest clients whose sums the server learns."""
        own, common = self.opened()
        uploads = self.uploads()
        left, sums = set(uploads), []
        while left:
            piece, ahead, clean = set(), [left.pop()], True
            while ahead:
                client = ahead.pop()
                piece.add(client)
                clean &= client in own
                for other in self.around(client) - self.corrupt:
                    masked, back = other in self.shared[client], client in self.shared[other]
                    if client in common or other in common or not (masked or back):
                        continue
                    if masked and back and other in uploads:
                        ahead += [other] if other not in piece else []
                    elif masked:
                        clean = False  # a mask that nobody's upload cancels
            left -= piece
            sums += [piece] if clean else []
        return sums


def strategies(
    n: int, k: int, t: int, corrupt: frozenset[int], dead: int, draws: random.Random
) -> Iterator[Lies]:
    """Yield lies around a victim, at place 0: half-random, half what an attacker would try."""
    honest = [c for c in range(n) if c not in corrupt]
    blank = Lies(n, k, t, n - dead, corrupt, {})
    around = {c: blank.around(c) for c in honest}
    spare = k + 1 - t  # so many neighbours can be kept from a client
    while True:
        everyone = frozenset(range(n))
        lists = [everyone - set(draws.sample(range(n), draws.randint(0, dead)))]
        lists.append(lists[0] ^ {0} if draws.random() < 0.6 else everyone - set(draws.sample(range(n), dead)))
        told = {c: lists[draws.random() < 0.5] for c in honest}
        if draws.random() < 0.5:  # the victim's neighbours in two halves, by what they are told
            first = set(draws.sample(sorted(around[0]), k // 2))
            told = {c: lists[c in first] for c in honest}
        shared = {c: set(around[c]) for c in honest}
        silent = {c for c in honest if draws.random() < draws.choice([0, 0, 0.3])}
        if draws.random() < 0.7:  # the victim masks with few of those that give its shares away
            givers = draws.sample([c for c in around[0] if c not in corrupt], min(spare, k - len(corrupt)))
            shared[0] -= set(givers)
            if draws.random() < 0.7:
                silent = ({0} | (around[0] - set(givers))) - corrupt
                told = dict.fromkeys(honest, lists[0] | {0, *givers})
        for c in honest:
            if c and draws.random() < 0.3:
                out = sorted(around[c] - told[c])
                shared[c] -= set(draws.sample(out, min(len(out), spare)))
        yield Lies(
            n,
            k,
            t,
            n - dead,
            corrupt,
            {c: frozenset(row) for c, row in shared.items()},
            {c: alive for c, alive in told.items() if c not in silent},
        )


@pytest.mark.parametrize(("n", "k", "bad"), [(16, 8, 0), (16, 8, 2), (24, 10, 2)])
def test_no_lie_reveals_more_than_one_sum_of_all_honest_clients(n: int, k: int, bad: int) -> None:
    dead = 4
    threshold = max(bad + 1, (k + 1 + bad) // 2 + 1, k // 2 + 2 + bad)
    claimed = Topology(n, k, threshold, Adversary.MALICIOUS_SERVER, bad, dead, bad).honest_minimum
    for enough in range(threshold, k + 1):
        assert least_learnt(n, k, enough, bad, dead) >= claimed
    # The control: with a low threshold the same search finds the victim's own vector.
    assert least_learnt(n, k, 3, bad, dead) == 1


def least_learnt(n: int, k: int, t: int, bad: int, dead: int, tries: int = 600) -> int:
    """Return the smallest sum that any of some strategies finds."""
    draws = random.Random(f"{n} {k} {t} {bad}")
    least = n
    for corrupt in [
        frozenset(draws.sample([*range(1, k // 2 + 1), *range(n - k // 2, n)], bad)) for _ in range(4)
    ]:
        lies = strategies(n, k, t, corrupt, dead, draws)
        for _ in range(tries // 4):
            least = min([least, *map(len, next(lies).learnt())])
    return least
