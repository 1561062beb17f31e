"""Graph and threshold for secret sharing, derived from assumptions on the clients.

On the complete graph (Bonawitz et al. 2017) every client is every other's neighbour. On a k-regular one (Bell et al.
2020, SecAgg+) a client masks with, and shares secrets with, k random others: a ring in random order, each beside the
k/2 to its left and right. Users state their assumptions; degree and threshold follow.

Four rules are conservative here. Corrupt and dropped clients are rounded up: 5 % of 30 are 2. Clients that drop out
before the graph is drawn may all be honest, so that the fraction of corrupt ones among the rest grows. A client keeps
a share of its own secrets, so a neighbourhood has k + 1 shares where the published finder counts k. And a malicious
server may choose among `ATTEMPTS` seeds of the graph, by repeating the reveal without some client, so that each seed
must be better by that factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from fedsim.privacy.secagg.hypergeometric import Hypergeometric

PRIVACY_BITS = 40  # the server sees more than claimed with probability at most 2^-40
CORRECTNESS_BITS = 20  # a round fails within the assumed dropouts with probability at most 2^-20
ATTEMPTS = 4  # graph seeds a malicious server may see revealed in a round: costs log2(4) bits of privacy
LEAST_DEGREE = 6  # fewest neighbours, whatever the fractions of a small cohort
LEAST_REGULAR_COHORT = 65  # below it, "auto" takes the complete graph, as Google's implementation does
MOST_CLIENTS = 10**9
MOST_BAD = Fraction(9, 10)  # corrupt + dropped (malicious: + dropped again), as in the published finder
_ROUNDING = 1e-9  # relative: far above the error of the tails, far below what a threshold changes

Graph = Literal["auto", "complete", "k-regular"]


class Adversary(StrEnum):
    """What the server may do, besides colluding with the corrupt clients."""

    SEMI_HONEST = "semi-honest"
    MALICIOUS_SERVER = "malicious-server"


@dataclass(frozen=True)
class Assumptions:
    """Assumptions on a cohort, on which every guarantee rests.

    Attributes:
        corrupt: Fraction of the cohort that colludes with the server, from 0 up to below 1.
        dropout: Fraction of the cohort that may be lost in a round, from 0 up to below 1.
        adversary: Whether the server follows the protocol.

    Raises:
        ValueError: A fraction is out of its range.
    """

    corrupt: float = 0.05
    dropout: float = 0.05
    adversary: Adversary = Adversary.SEMI_HONEST

    def __post_init__(self) -> None:
        for name, value in (("corrupt", self.corrupt), ("dropout", self.dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} = {value}: must be from 0 up to, but not including, 1")

    @property
    def malicious(self) -> bool:
        """Whether the server may lie."""
        return self.adversary is Adversary.MALICIOUS_SERVER

    def corrupt_of(self, clients: int) -> int:
        """Return the most corrupt clients of a number of clients, rounded up."""
        return counted_up(self.corrupt, clients)

    def dropped_of(self, clients: int) -> int:
        """Return the most dropouts of a number of clients, rounded up."""
        return counted_up(self.dropout, clients)


def counted_up(fraction: float, clients: int) -> int:
    """Return a fraction of the clients, rounded up; the fraction is taken as its decimal, so that 5 % of 100 are 5.

    >>> counted_up(0.05, 100), counted_up(0.05, 101), counted_up(0.07, 100)
    (5, 6, 7)
    """
    return math.ceil(Fraction(repr(float(fraction))) * clients)


@dataclass(frozen=True)
class Topology:
    """Graph and threshold for secret sharing."""

    clients: int  # in the cohort
    degree: int  # neighbours of a client, without itself; `clients - 1` on the complete graph, else even
    threshold: int  # shares that open a secret, of `degree + 1`
    adversary: Adversary  # that it withstands
    corrupt: int  # most corrupt clients of the cohort
    dropped: int  # most lost clients of the cohort
    corrupt_neighbours: int
    """Most corrupt neighbours of a client; on a k-regular graph except with probability 2^-41 over all clients."""

    @property
    def complete(self) -> bool:
        """Whether every client is every other's neighbour."""
        return self.degree == self.clients - 1

    @property
    def quorum(self) -> int:
        """Signatures of the list of uploads needed from the whole cohort, against a malicious server.

        Any two quorums share an honest client, which signs one list only, so all honest clients unmask by the same
        list. On the complete graph the threshold is as large.
        """
        return self.threshold if self.complete else (self.clients + self.corrupt) // 2 + 1

    @property
    def honest_minimum(self) -> int:
        """Fewest honest clients in any sum that the server may learn.

        Complete graph: at least `threshold` clients survive, or nothing can be opened, and all but `corrupt` of them
        are honest. Against a malicious server this needs 2t > n + corrupt, so that no two quorums sign different
        survivors, and clients that refuse to open anything if a survivor's shares never reached them.

        k-regular, semi-honest: the honest survivors are connected, so that only the sum over all of them can be
        learnt: those that neither dropped out nor are corrupt.

        k-regular, malicious server: as many, by this project's own argument. A quorum of the whole cohort (`quorum`)
        makes the honest clients unmask by one list A of uploads: no masking key of a client on A is opened, and no
        own mask of any other. Let u be a client in a sum that the server learns, so u is on A, and let c of its k
        neighbours be corrupt. At least t - 1 - c honest others masked with u, and at least t - c honest clients, u or
        neighbours, gave a share of its own mask. As 2t > k + 1 + c, one of these, v, is u or masked with u, and is in
        the sum. It has checked that it masked with all its neighbours on A, so the honest ones of them are in the
        sum. The clients that gave shares of v's own mask are among them: at least t - 1 - c honest others, of which
        at most k/2 - c' are on the left, where c' of the corrupt ones are. As t > k/2 + 1 + c'' with c'' corrupt ones
        on the right, one of them is on the right: another such client within k/2 places to the right of v. This
        repeats all around the ring, so every honest client on A is a neighbour of one, and in the sum.
        """
        if self.complete:
            return self.threshold - self.corrupt
        return self.clients - self.dropped - self.corrupt

    @property
    def survivors_minimum(self) -> int:
        """Fewest survivors of a round; with fewer it fails.

        A semi-honest server on a k-regular graph must enforce this itself: with more dropouts than assumed, the
        honest survivors may not be connected.
        """
        return self.threshold if self.complete else self.clients - self.dropped

    @property
    def claim(self) -> str:
        """The guarantee and its limits, in plain sentences."""
        who = f"the server and {self.corrupt:,} of {self.clients:,} clients together"
        chance = "" if self.complete else f" (but for a probability of 2^-{PRIVACY_BITS})"
        if self.adversary is Adversary.SEMI_HONEST:
            return (
                f"If the server follows the protocol, {who} learn one sum, which has {self.honest_minimum:,} honest "
                f"clients in it at least, and nothing else{chance}. A server that lies, by swapping keys or by "
                "telling clients different lists of who dropped out, is not withstood."
            )
        alpha = self.honest_minimum / self.clients
        kind = "" if self.complete else f" (alpha-summation with alpha = {alpha:.2f}, Bell et al. 2020)"
        return (
            f"Whatever the server does, {who} learn one sum at most, which has {self.honest_minimum:,} honest clients "
            f"in it at least{kind}{chance}. A wrong sum, a failed round, and cohorts chosen or filled by the server "
            "are not withstood."
        )


def topology(clients: int, assumptions: Assumptions, *, graph: Graph = "auto", minimum: int = 3) -> Topology:
    """Return the graph and the threshold for a cohort.

    Args:
        clients: In the cohort, up to 10^9.
        assumptions: On the cohort.
        graph: "auto" takes a k-regular graph for `LEAST_REGULAR_COHORT` clients or more if it has at most half the
            neighbours of the complete one, else the complete one.
        minimum: The smallest allowed cohort.

    Raises:
        ValueError: No threshold both protects secrets from corrupt clients and opens them after dropouts, or the
            cohort is out of range; the message says which number to change.

    >>> found = topology(100, Assumptions(corrupt=0.05, dropout=0.05))
    >>> found.degree, found.threshold, found.honest_minimum
    (12, 6, 90)
    >>> topology(20, Assumptions(corrupt=0.05, dropout=0.05)).threshold
    14
    """
    if graph not in ("auto", "complete", "k-regular"):
        raise ValueError(f"graph = {graph!r}: must be 'auto', 'complete' or 'k-regular'")
    if minimum < 2:
        raise ValueError(f"minimum = {minimum}: must be 2 or more, as a sum over one client is its vector")
    if not minimum <= clients <= MOST_CLIENTS:
        raise ValueError(f"a cohort of {clients:,}: must be from {minimum:,} to {MOST_CLIENTS:,} clients")
    if graph == "complete":
        return _complete(clients, assumptions)
    found = _k_regular(clients, assumptions)
    if graph == "auto":
        if found is not None and clients >= LEAST_REGULAR_COHORT and 2 * (found.degree + 1) <= clients:
            return found
        return _complete(clients, assumptions)
    if found is None:
        raise ValueError(
            f"a k-regular graph of {clients:,} clients with corrupt = {assumptions.corrupt:g} and dropout = "
            f"{assumptions.dropout:g} ({assumptions.adversary}): no degree below {clients - 1:,} will do; a larger "
            "cohort, lower fractions or the complete graph might"
        )
    return found


def _complete(clients: int, assumptions: Assumptions) -> Topology:
    least, most = _complete_bounds(clients, assumptions)
    corrupt, dropped = assumptions.corrupt_of(clients), assumptions.dropped_of(clients)
    if least > most:
        raise ValueError(
            f"a cohort of {clients:,} with corrupt = {assumptions.corrupt:g} ({corrupt:,}) and dropout = "
            f"{assumptions.dropout:g} ({dropped:,}), {assumptions.adversary}: the threshold must be {least:,} or "
            f"more, and only {most:,} clients may be left; {_remedy(clients, assumptions)}"
        )
    return Topology(
        clients=clients,
        degree=clients - 1,
        threshold=min(max(2 * clients // 3 + 1, least), most),
        adversary=assumptions.adversary,
        corrupt=corrupt,
        dropped=dropped,
        corrupt_neighbours=min(corrupt, clients - 1),
    )


def _complete_bounds(clients: int, assumptions: Assumptions) -> tuple[int, int]:
    """Return the smallest threshold that protects secrets, and the largest after dropouts."""
    corrupt = assumptions.corrupt_of(clients)
    least = (clients + corrupt) // 2 + 1 if assumptions.malicious else corrupt + 1
    return max(least, 2), clients - assumptions.dropped_of(clients)


def _remedy(clients: int, assumptions: Assumptions) -> str:
    """Return advice on making a complete graph feasible."""
    weight = 2 if assumptions.malicious else 1
    sum_of = "corrupt + 2 dropout" if assumptions.malicious else "corrupt + dropout"
    if assumptions.corrupt + weight * assumptions.dropout < 1:
        for more in range(clients + 1, 100 * clients):
            least, most = _complete_bounds(more, assumptions)
            if least <= most:
                return f"a cohort of {more:,} would do, or lower fractions"
    return f"lower fractions would do ({sum_of} well below 1)"


def _k_regular(clients: int, assumptions: Assumptions) -> Topology | None:
    corrupt, dropped = assumptions.corrupt_of(clients), assumptions.dropped_of(clients)
    found = k_regular(
        clients,
        corrupt,
        dropped,
        malicious=assumptions.malicious,
        privacy_bits=PRIVACY_BITS + (math.ceil(math.log2(ATTEMPTS)) if assumptions.malicious else 0),
        one_sum=True,
        least_degree=LEAST_DEGREE,
        lost_before=dropped,
    )
    if found is None:
        return None
    return Topology(
        clients=clients,
        degree=found.degree,
        threshold=found.threshold,
        adversary=assumptions.adversary,
        corrupt=corrupt,
        dropped=dropped,
        corrupt_neighbours=found.corrupt_neighbours,
    )


@dataclass(frozen=True)
class Regular:
    """Result of `k_regular`; as in `Topology`."""

    degree: int
    threshold: int
    corrupt_neighbours: int


@lru_cache(maxsize=1024)
def k_regular(
    clients: int,
    corrupt: int,
    dropped: int,
    *,
    malicious: bool,
    privacy_bits: int = PRIVACY_BITS,
    correctness_bits: int = CORRECTNESS_BITS,
    one_sum: bool = False,
    least_degree: int = 2,
    lost_before: int = 0,
) -> Regular | None:
    """Return the smallest degree with a threshold that is both safe and live, or None.

    The conditions are those of Bell et al. (2020), with exact hypergeometric tails as in the published finder
    (google-parfait/federated-compute, `graph_parameter_finder`), which the defaults with counts rounded down
    reproduce. For a degree k:

    - the graph of the honest survivors is in one piece but for 2^-(privacy bits + 1): to cut it, k/2 clients in a
      row have to be bad in two places, and there are n (n - k - 1) / 2 pairs of places;
    - no client has more than c corrupt neighbours but for 2^-(privacy bits + 1) over all clients;
    - no client has fewer than `threshold` neighbours left but for 2^-(correctness bits) over all clients;
    - threshold > c; against a malicious server 2 threshold > k + c, or with `one_sum` 2 threshold > k + 1 + c and
      threshold > k/2 + 1 + c'', where no client has more than c'' corrupt neighbours on its right but for
      2^-(privacy bits + 1) over all clients (that the graph is in one piece then follows, and needs no bits).

    Args:
        clients: At least 3.
        corrupt: Corrupt ones among them.
        dropped: Clients that may be lost.
        malicious: Whether the server may lie.
        privacy_bits: Of statistical security.
        correctness_bits: Of statistical correctness.
        one_sum: Whether, against a malicious server, a client keeps a share of its own secrets, and only one sum may
            be learnt (see `Topology.honest_minimum`).
        least_degree: The first degree to try.
        lost_before: Honest clients that may be lost before the graph is drawn over the others.
    """
    if corrupt + (2 if malicious else 1) * dropped > MOST_BAD * clients:
        return None
    degree = least_degree + least_degree % 2
    while degree < clients - lost_before - 1:
        law = Hypergeometric(clients - lost_before, corrupt, degree)
        left = Hypergeometric(clients, clients - dropped, degree)
        limit = 2.0 ** -(privacy_bits + 1) * (1 - _ROUNDING)
        bad = law.exceeded_at_most(limit / clients)
        most = left.reached_but_for(2.0**-correctness_bits * (1 - _ROUNDING) / clients)
        least = max(bad + 1, 2)
        if malicious:
            least = max(least, (degree + one_sum + bad) // 2 + 1)
        if malicious and one_sum:
            on_one_side = Hypergeometric(clients - lost_before, corrupt, degree // 2)
            least = max(least, degree // 2 + 2 + on_one_side.exceeded_at_most(limit / clients))
        if most >= least and _log_disconnected(clients, corrupt + dropped, degree) <= math.log(limit):
            return Regular(degree, least, bad)
        # Two more neighbours leave at most two more, and a malicious server's threshold rises by at least one: these
        # degrees are infeasible.
        missing = least - most
        degree += 2 * max(1, missing if malicious else missing // 2)
    return None


def _log_disconnected(clients: int, bad: int, degree: int) -> float:
    """Return the log of a bound on the probability that the good clients are not connected."""
    places = 0.5 * clients * (clients - degree - 1)
    return math.log(places) + Hypergeometric(clients, bad, degree).log_probability(degree)
