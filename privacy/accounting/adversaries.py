"""Epsilon depends on the adversary: known cohorts, or released models only.

Unit: a record. Neighbouring relation: zero-out, with each client's number of records public (the numbers equal those
of add/remove where rate and steps are constants of their own, and no batch is cut). Noise: ideal real Gaussians. Clients
hold disjoint records, so a record's epsilon is its own client's, and that of all is the largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from fedsim.privacy.accounting import pld, renyi
from fedsim.privacy.accounting.pld import Step
from fedsim.privacy.accounting.steps import Epsilon, LocalSteps, check_delta


class Adversary(Protocol):
    """An adversary, and the number of rounds that it observes."""

    def epsilon(self, local: LocalSteps) -> Epsilon:
        """Return what a record of a client may lose to this adversary."""

    def bound(self, step: Step, steps: int) -> float:
        """Return an upper bound on `epsilon(...).best` quickly; it grows with each of the arguments."""


@dataclass(frozen=True)
class KnownCohort:
    """Sees a client's updates and knows when it took part, as the server and an eavesdropper do.

    The steps of all participations compose, without amplification by client sampling.

    Attributes:
        participations: Rounds in which the client takes part, 0 or more: a bound fixed in advance, or a count that
            does not depend on the data.
        delta: Above 0 and below 1.

    Raises:
        ValueError: A value is out of its range.
    """

    participations: int
    delta: float

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if self.participations < 0:
            raise ValueError(f"participations = {self.participations}: must be 0 or more")

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
    after a number of participations, nor for cohorts of fixed size.

    Attributes:
        client_rate: Probability that a client is in a cohort, above 0 and at most 1.
        rounds: 0 or more.
        delta: Above 0 and below 1.

    Raises:
        ValueError: A value is out of its range.
    """

    client_rate: float
    rounds: int
    delta: float

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if not 0 < self.client_rate <= 1:
            raise ValueError(f"client rate = {self.client_rate}: must be above 0 and at most 1")
        if self.rounds < 0:
            raise ValueError(f"rounds = {self.rounds}: must be 0 or more")

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
