"""Epsilon depends on the adversary: known cohorts, or released models only; and the largest over many clients.

Unit: a record. Neighbouring relation: zero-out, with each client's number of records public (the numbers equal those
of add/remove where rate and steps are constants of their own, and no batch is cut). Noise: ideal real Gaussians. Clients
hold disjoint records, so a record's epsilon is its own client's, and that of all is the largest.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from fedsim.privacy.accounting import pld, renyi
from fedsim.privacy.accounting.pld import Step
from fedsim.privacy.accounting.steps import Epsilon, LocalSteps, check_delta
from fedsim.privacy.ranges import check_count, check_rate


class Adversary(Protocol):
    """An adversary, and the number of rounds that it observes."""

    def epsilon(self, local: LocalSteps) -> Epsilon:
        """Return what a record of a client may lose to this adversary."""

    def bound(self, step: Step, steps: int) -> float:
        """Return an upper bound on `epsilon(...).best` quickly; it grows with each of the arguments."""


@dataclass(frozen=True)
class KnownCohort:
    """Sees a client's updates and knows when it took part, as the server and an eavesdropper do.

    The steps of all participations compose, without amplification by client sampling. Raises `ValueError` for a value
    out of its range.

    Attributes:
        participations: Rounds in which the client takes part, 0 or more: a bound fixed in advance, or a count that
            does not depend on the data.
        delta: Above 0 and below 1.
    """

    participations: int
    delta: float

    def __post_init__(self) -> None:
        check_delta(self.delta)
        check_count("participations", self.participations, least=0)

    def epsilon(self, local: LocalSteps) -> Epsilon:
        """Return what a record of a client may lose to this adversary."""
        rdp_too = not local.truncated  # dp-accounting has no theorem for batches that are cut
        if self.participations == 0:
            return Epsilon(0.0, 0.0 if rdp_too else None)
        if local.noise_multiplier < renyi.LEAST:
            return Epsilon(math.inf, math.inf if rdp_too else None)
        count = local.steps * self.participations
        return Epsilon(
            pld.epsilon_of_steps(pld.step_of(local), count, self.delta),
            renyi.epsilon(local.noise_multiplier, local.rate, count, self.delta) if rdp_too else None,
        )

    def bound(self, step: Step, steps: int) -> float:
        """Return an upper bound on `epsilon(...).best` quickly; it grows with each of the arguments."""
        if self.participations == 0:
            return 0.0
        return pld.epsilon_of_steps(step, steps * self.participations, self.delta, pld.ROUGH)


@dataclass(frozen=True)
class ReleasedModels:
    """Sees each round's model, but neither updates nor cohorts, which are secret Poisson samples.

    A client's other records can reveal that it took part, so a round is *cluster sampling* (Bun, Drechsler, Gaboardi,
    McMillan, Sarathy 2020, arXiv 2007.12674): its privacy loss is 0 with probability `1 - client_rate`, else that of
    the local steps (`pld.mixture`). Rounds compose. Only delta is amplified. This does not hold for clients that stop
    after a number of participations, nor for cohorts of fixed size. Raises `ValueError` for a value out of its range.

    Attributes:
        client_rate: Probability that a client is in a cohort, above 0 and at most 1.
        rounds: 0 or more.
        delta: Above 0 and below 1.
    """

    client_rate: float
    rounds: int
    delta: float

    def __post_init__(self) -> None:
        check_delta(self.delta)
        check_rate("client rate", self.client_rate)
        check_count("rounds", self.rounds, least=0)

    def epsilon(self, local: LocalSteps) -> Epsilon:
        """Return a record's epsilon against this adversary; there is no RDP theorem."""
        if self.client_rate == 1:
            return replace(KnownCohort(self.rounds, self.delta).epsilon(local), rdp=None)
        if self.rounds == 0:
            return Epsilon(0.0, None)
        if local.noise_multiplier < renyi.LEAST:
            never = (1 - self.client_rate) ** self.rounds
            return Epsilon(0.0 if 1 - never <= self.delta else math.inf, None)
        step = pld.step_of(local)
        return Epsilon(
            _released(step, local.steps, self.client_rate, self.rounds, self.delta, pld.TOLERANCE), None
        )

    def bound(self, step: Step, steps: int) -> float:
        """Return an upper bound on `epsilon(...).best` quickly; it grows with each of the arguments."""
        if self.rounds == 0:
            return 0.0
        if self.client_rate == 1:
            return KnownCohort(self.rounds, self.delta).bound(step, steps)
        return _released(step, steps, self.client_rate, self.rounds, self.delta, pld.ROUGH)


@lru_cache(maxsize=4096)
def _released(
    step: Step, steps: int, client_rate: float, rounds: int, delta: float, tolerance: float
) -> float:
    if step.noise_multiplier < pld.LEAST_NOISE:
        return pld.epsilon_without_sampling(step, steps * rounds, delta)

    def law(grid: float) -> Any:
        once = pld.mixture(step, steps, client_rate, grid)
        return once if rounds == 1 else once.self_compose(rounds)

    return pld.epsilon_of(law, pld.coarsest(step, steps), delta, tolerance)


def epsilon_of_gaussians(noise_multiplier: float, count: int, delta: float) -> Epsilon:
    """Return epsilon of a number of Gaussian releases without sampling, 0 or more, of any unit; `pld` is exact.

    R releases equal one with noise smaller by sqrt(R) (Balle and Wang 2018, arXiv 1805.06530, theorem 8). The
    classical sqrt(2 ln(1.25 / delta)) / noise multiplier is proven for epsilon up to 1 only, and too low above.

    >>> round(epsilon_of_gaussians(1.0, 1, 1e-5).pld, 6)
    4.377178
    """
    if count == 0:
        return Epsilon(0.0, 0.0)
    if noise_multiplier < renyi.LEAST:
        return Epsilon(math.inf, math.inf)
    from dp_accounting import get_epsilon_gaussian

    return Epsilon(
        float(get_epsilon_gaussian(noise_multiplier / math.sqrt(count), delta)),
        renyi.epsilon(noise_multiplier, 1.0, count, delta),
    )


def known_cohort(local: LocalSteps, participations: int, delta: float) -> Epsilon:
    """Return a record's epsilon against an adversary that knows the client's participations (`KnownCohort`).

    >>> epsilon = known_cohort(LocalSteps(noise_multiplier=1.0, rate=0.1, steps=10), participations=10, delta=1e-5)
    >>> round(epsilon.pld, 4), round(epsilon.rdp, 4)
    (7.0466, 7.9039)
    """
    return KnownCohort(participations, delta).epsilon(local)


def released_models(local: LocalSteps, client_rate: float, rounds: int, delta: float) -> Epsilon:
    """Return a record's epsilon against an adversary that sees the models only; cohorts are secret (`ReleasedModels`).

    >>> local = LocalSteps(noise_multiplier=1.0, rate=0.1, steps=10)
    >>> round(released_models(local, client_rate=0.1, rounds=100, delta=1e-5).pld, 2)
    7.84
    """
    return ReleasedModels(client_rate, rounds, delta).epsilon(local)


def worst(clients: Iterable[LocalSteps], adversary: Adversary) -> tuple[LocalSteps, Epsilon]:
    """Return the client with the largest epsilon of its records (the better bound of each), and that epsilon.

    Branch and bound. Epsilon grows with rate and steps and falls with noise: one step at rate q is a step at a larger
    rate q' that happens with probability q / q', which costs no more (joint convexity), and further steps only add.
    So one evaluation at a group's largest rate and most steps bounds all its clients. The group with the largest
    bound, in the order of rates, is halved until one client's own epsilon is at least the bound of all others. The
    result equals that of evaluating every client.

    Args:
        clients: What each releases in one participation; one or more, else `ValueError`. Repeated ones cost nothing.
        adversary: Adversary that epsilon holds against.

    >>> from fedsim.privacy.accounting import KnownCohort
    >>> clients = [LocalSteps(noise_multiplier=1, rate=10 / n, steps=n // 10) for n in range(20, 200)]
    >>> client, epsilon = worst(clients, KnownCohort(participations=5, delta=1e-5))
    >>> client.rate, client.steps, round(epsilon.pld, 2)
    (0.5, 2, 10.46)
    """
    order = sorted(set(clients), key=lambda client: (client.rate, client.steps), reverse=True)
    if not order:
        raise ValueError("clients: there must be one or more")
    found: tuple[LocalSteps, Epsilon] | None = None
    groups = [(-math.inf, 0, len(order))]
    while groups and (found is None or -groups[0][0] > found[1].best):
        _, start, stop = heapq.heappop(groups)
        if stop - start == 1:
            epsilon = adversary.epsilon(order[start])
            if found is None or epsilon.best > found[1].best:
                found = (order[start], epsilon)
            continue
        middle = (start + stop) // 2
        for half in ((start, middle), (middle, stop)):
            heapq.heappush(groups, (-_bound(order[slice(*half)], adversary), *half))
    if found is None:
        raise RuntimeError("unreachable: the first group was divided down to a client")
    return found


def _bound(clients: Sequence[LocalSteps], adversary: Adversary) -> float:
    """Return an upper bound on every client's epsilon: that of a step at least as bad as theirs in every field.

    A truncated step is a mixture of two distributions; that of a full batch is the worse unless its rate is lower.
    """
    steps = [pld.step_of(client) for client in clients]
    if min(step.noise_multiplier for step in steps) == 0:
        return math.inf
    rate = max(step.rate for step in steps)
    truncation = max(step.truncation for step in steps)
    corner = Step(
        noise_multiplier=min(step.noise_multiplier for step in steps),
        rate=rate,
        truncation=truncation,
        truncated_rate=max(rate, *(step.truncated_rate for step in steps)) if truncation > 0 else 0.0,
    )
    return adversary.bound(steps[0] if len(steps) == 1 else corner, max(client.steps for client in clients))


def spread(
    clients: Iterable[LocalSteps],
    adversary: Adversary,
    quantiles: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> list[float]:
    """Return quantiles of epsilon over the clients, ascending: bounds up to some 0.1 % above the best.

    One client is evaluated for each quantile. Clients are sorted by rate * sqrt(steps) / noise, the order of their
    epsilons in the limit of many steps (Bu et al. 2020, "Deep learning with Gaussian differential privacy"); for few
    steps adjacent clients may be swapped. Take the largest from `worst`, which is exact.

    Args:
        clients: What each releases in one participation; one or more, else `ValueError` is raised.
        adversary: Adversary that epsilon holds against.
        quantiles: Between 0 (the smallest) and 1 (the largest), else `ValueError` is raised.
    """

    def strength(client: LocalSteps) -> float:
        noise = client.noise_multiplier
        return client.rate * math.sqrt(client.steps) / noise if noise > 0 else math.inf

    order = sorted(clients, key=strength)
    if not order:
        raise ValueError("clients: there must be one or more")
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile = {quantile}: must be between 0 and 1")
    return sorted(_bound([order[round(quantile * (len(order) - 1))]], adversary) for quantile in quantiles)
