"""B-min-separated cohorts: a client takes part at most once in so many rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.cohorts.rule import Cohorts, Participation
from fedsim.privacy.cohorts.sampling import CohortSampling, Coins


class SeparatedCohorts(CohortSampling):
    """Cohorts that keep a participation pattern, checked by a secret history.

    Clients with no participations left are not drawn.
    """

    stateful = True

    def __init__(self, rule: Cohorts, participation: Participation, coins: Coins) -> None:
        super().__init__()
        self._rule = rule
        self._participation = participation
        self._coins = coins
        self._groups = [group_of(str(client), participation.separation) for client in range(rule.population)]
        self._history = History(participation)

    def draw(self, round_: int, clients: int) -> list[int]:
        """Draw a round's clients, in ascending order, and record their participation, whether or not they answer.

        A round that was drawn before a kill gets the same clients again.

        Raises:
            ValueError: A client would break the separation.
        """
        cohort = self.noted.get(round_)
        if cohort is None:
            drawn = draw_separated(
                round_, self._participation.separation, self._rule.cohort, self._groups, self._coins(round_)
            )
            cohort = [client for client in drawn if not self._history.is_spent(client)]
        self._history.admit(round_, cohort)
        if round_ not in self.noted:
            self.note(round_, cohort)
        return cohort

    def abandon(self, round_: int, clients: int) -> None:
        """Count the clients of an interrupted round as having taken part."""
        self.draw(round_, clients)

    def state(self) -> dict[str, Any]:
        """Return each client's last participation, and the number of its participations."""
        return self._history.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. As `CohortSampling` says."""
        self._history = History(self._participation, state)


class History:
    """Record of past participations; refuses those that the pattern forbids. As secret as the cohorts.

    Args:
        participation: The pattern.
        state: `state` of an earlier history with this pattern, else `ValueError`; None: no participations yet.
    """

    def __init__(
        self, participation: Participation, state: Mapping[str, NDArray[np.int64]] | None = None
    ) -> None:
        self._participation = participation
        self._last: dict[int, int] = {}
        self._count: dict[int, int] = {}
        if state is not None:
            clients, last, count = (state[name].tolist() for name in ("clients", "last", "count"))
            if not len(clients) == len(last) == len(count) == len(set(clients)):
                raise ValueError(
                    "state: clients, last and count must be of the same length, and no client twice"
                )
            self._last = dict(zip(clients, last, strict=True))
            self._count = dict(zip(clients, count, strict=True))

    def refusal(self, round_: int, client: int) -> str | None:
        """Return the reason why a client may not take part in a round (from 1), or None."""
        pattern = self._participation
        if not 1 <= round_ <= pattern.rounds:
            return f"round {round_}: the noise is planned for rounds 1 to {pattern.rounds}"
        last = self._last.get(client)
        if last is None:
            return None
        if round_ - last < pattern.separation:
            return (
                f"round {round_}: client {client} took part in round {last}, and participations must be "
                f"{pattern.separation} or more rounds apart"
            )
        if self._count[client] >= pattern.participations:
            return f"round {round_}: client {client} took part {self._count[client]} times, which is the most"
        return None

    def is_spent(self, client: int) -> bool:
        """Return whether a client has no participations left."""
        return self._count.get(client, 0) >= self._participation.participations

    def admit(self, round_: int, clients: Iterable[int]) -> None:
        """Record a cohort of different clients before it trains, or none of it if one of them is refused.

        Raises:
            ValueError: A client may not take part, with the round, the client and the reason.
        """
        cohort = list(clients)
        if len(set(cohort)) < len(cohort):
            raise ValueError(f"round {round_}: a client is in the cohort twice")
        for client in cohort:
            if (reason := self.refusal(round_, client)) is not None:
                raise ValueError(reason)
        for client in cohort:
            self._last[client] = round_
            self._count[client] = self._count.get(client, 0) + 1

    def state(self) -> dict[str, NDArray[np.int64]]:
        """Return `clients`, their `last` rounds and the `count` of their participations, each `(clients,)`."""
        clients = np.array(sorted(self._last), dtype=np.int64)
        last, count = (
            np.array([of[client] for client in clients.tolist()], dtype=np.int64)
            for of in (self._last, self._count)
        )
        return {"clients": clients, "last": last, "count": count}


def group_of(identity: str, groups: int) -> int:
    """Return a client's group, from 0 to `groups - 1`: a BLAKE2b hash of its permanent identity alone.

    So a client keeps its group across restarts and when other clients join or leave.

    >>> [group_of(str(client), 3) for client in range(8)]
    [1, 2, 2, 1, 1, 2, 1, 1]
    """
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % groups


def draw_separated(
    round_: int, separation: int, cohort: int, groups: Sequence[int], generator: np.random.Generator
) -> list[int]:
    """Draw a round's clients, in ascending order; each is in at most one of `separation` consecutive rounds.

    The `separation` groups take turns: group g has the rounds t with t = g modulo `separation`. Each of its clients
    is drawn independently with probability `separation * cohort / clients`, so that on average over rounds `cohort`
    take part (amplified banded matrix factorisation: Choquette-Choo et al. 2023, arXiv 2306.08153). The result may be
    empty. Groups, being hashes, differ in size, and so do cohorts; the probability, which the account uses, does not.

    Args:
        round_: From 1.
        separation: b, 1 or more.
        cohort: Expected, 1 or more; at most the clients / `separation`.
        groups: The group of each client (`group_of`), in the clients' order.
        generator: Of the round. `ValueError` is raised for values out of range.
    """
    rate = separation * cohort / max(len(groups), 1)
    if separation < 1 or cohort < 1 or rate > 1:
        raise ValueError(f"cohort {cohort} in {separation} groups of {len(groups)} clients")
    turn = np.asarray(groups) == round_ % separation
    return np.flatnonzero(turn & (generator.random(len(groups)) < rate)).tolist()
