"""Accounting of correlated noise: a training is one Gaussian mechanism, or sampled ones if groups take turns.

Unit: a client with all its participations. Neighbouring relation: zero-out. Noise: ideal real Gaussians. The server
sees the sums before the noise: against it epsilon is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from fedsim.privacy.accounting.adversaries import epsilon_of_gaussians, known_cohort
from fedsim.privacy.accounting.calibration import smallest_noise
from fedsim.privacy.accounting.steps import Epsilon, LocalSteps, check_delta
from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.correlated_noise import Banded
from fedsim.privacy.dp_ftrl.factorization import Factorization
from fedsim.privacy.dp_ftrl.toeplitz import Objective
from fedsim.privacy.ranges import check_count, check_rate


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Groups of clients that take turns; each client of the current group is drawn by secret Poisson sampling.

    With a strategy of at most as many bands as groups, a client's participations lie in rows that don't overlap, and
    the training is `steps` Poisson-sampled Gaussian mechanisms (Choquette-Choo et al. 2023, arXiv 2306.08153). Only N
    / count clients can be drawn in a round, so for the same expected cohort the sampling rate is `count` times the
    client rate. Accounting with the client rate itself, as pfl-research does, assumes cohorts `count` times as small.
    Raises `ValueError` for a value out of its range.

    Attributes:
        count: Groups, 1 or more. Group g (from 0) has its turn in rounds g + 1, g + 1 + count, ...
        rounds: 1 or more.
        client_rate: Expected cohort / all clients, above 0 and at most 1 / count. A public constant.
    """

    count: int
    rounds: int
    client_rate: float

    def __post_init__(self) -> None:
        check_count("groups", self.count)
        check_count("rounds", self.rounds)
        check_rate("client rate", self.client_rate)
        if self.client_rate * self.count > 1 + 1e-12:
            raise ValueError(
                f"client rate = {self.client_rate}: a cohort of {self.client_rate:.4g} of all clients can't come from "
                f"one of {self.count} groups; at most 1 / groups = {1 / self.count:.4g}"
            )

    @classmethod
    def of(cls, participation: Participation, client_rate: float) -> Self:
        """Return the groups whose turns keep a pattern's separation."""
        return cls(count=participation.separation, rounds=participation.rounds, client_rate=client_rate)

    @property
    def rate(self) -> float:
        """Probability that a client is in the cohort in its group's turn."""
        return min(self.client_rate * self.count, 1.0)

    @property
    def steps(self) -> int:
        """Turns of a group, at most."""
        return -(-self.rounds // self.count)


@lru_cache(maxsize=4096)
def epsilon_gaussian(noise_multiplier: float, delta: float) -> Epsilon:
    """Return the epsilon of a whole training with correlated noise, which is one Gaussian mechanism.

    It holds for all cohorts that keep the participation pattern, even if known; `pld` is exact.

    Args:
        noise_multiplier: Deviation of z over the L2 sensitivity of C x under the pattern; 0 or more.
        delta: Above 0 and below 1; `ValueError` is raised for a value out of its range.

    >>> round(epsilon_gaussian(4.0, 1e-6).pld, 5)
    1.0607
    """
    check_delta(delta)
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"noise multiplier = {noise_multiplier}: must be 0 or more, and finite")
    return epsilon_of_gaussians(noise_multiplier, 1, delta)


def epsilon_amplified(noise_multiplier: float, groups: Groups, delta: float) -> Epsilon:
    """Return epsilon against an adversary that sees the models but not the cohorts; for banded strategies only.

    Args:
        noise_multiplier: Deviation of z over the L2 sensitivity of C x to *one* participation; 0 or more.
        groups: At least as many as the strategy has bands; each client's by a hash of its identity.
        delta: Above 0 and below 1; `ValueError` is raised for a value out of its range.

    >>> groups = Groups(count=50, rounds=1500, client_rate=1e3 / 1e6)
    >>> round(epsilon_amplified(0.5315, groups, 1e-6).pld, 1)
    12.0
    """
    turns = LocalSteps(noise_multiplier=noise_multiplier, rate=groups.rate, steps=groups.steps)
    return known_cohort(turns, 1, delta)


@dataclass(frozen=True, kw_only=True)
class NoisePlan:
    """A mechanism with its noise, with or without amplification by secret cohorts.

    Attributes:
        mechanism: Releases the sums.
        noise_multiplier: Standard deviation of z over `sensitivity`.
        groups: Groups that cohorts are drawn from; None: any cohorts that keep the pattern.

    Raises:
        ValueError: There are groups, but the strategy isn't banded, or has more bands; or the pattern is another.
    """

    mechanism: Factorization
    noise_multiplier: float
    groups: Groups | None = None

    def __post_init__(self) -> None:
        if self.groups is None:
            return
        strategy, pattern = self.mechanism.strategy, self.mechanism.participation
        if not isinstance(strategy, Banded) or strategy.vectors >= self.groups.count:
            raise ValueError(
                f"{self.mechanism.name}: amplification by {self.groups.count} groups has a theorem for strategies of at "
                f"most {self.groups.count} bands alone"
            )
        if (pattern.rounds, pattern.separation) != (self.groups.rounds, self.groups.count):
            raise ValueError(
                f"groups: {self.groups.count} that take turns in {self.groups.rounds} rounds keep participations so far "
                f"apart, and the pattern is {pattern.separation} in {pattern.rounds}"
            )
        if pattern.participations < self.groups.steps:
            raise ValueError("groups: a client that stops after some participations isn't Poisson-sampled")

    @property
    def sensitivity(self) -> float:
        """Sensitivity that scales the noise: to all participations, or to one if groups amplify each."""
        return self.mechanism.sensitivity if self.groups is None else self.mechanism.once

    @property
    def deviation(self) -> float:
        """Standard deviation of z over the clip norm."""
        return self.noise_multiplier * self.sensitivity

    def error(self, objective: Objective) -> float:
        """Return the standard deviation of the noise on prefix sums of the sums, over the clip norm."""
        return self.deviation * self.mechanism.residual(objective)

    def known_cohort(self, delta: float) -> Epsilon:
        """Return epsilon against an adversary that sees the models and knows the cohorts."""
        return epsilon_gaussian(self.deviation / self.mechanism.sensitivity, delta)

    def released_models(self, delta: float) -> Epsilon:
        """Return epsilon against an adversary that sees the models and knows no cohort."""
        if self.groups is None:
            return self.known_cohort(delta)
        return epsilon_amplified(self.noise_multiplier, self.groups, delta)


def plan(
    mechanism: Factorization, epsilon: float, delta: float, client_rate: float | None = None
) -> NoisePlan:
    """Return a mechanism with the smallest noise (up to 0.1 %) for an epsilon against who sees the released models.

    Args:
        mechanism: The factorization.
        epsilon: Above 0.
        delta: Above 0 and below 1.
        client_rate: Expected cohort / all clients, if cohorts are drawn from groups, as many as the separation; None:
            no amplification, so that epsilon holds also if cohorts are known.

    Raises:
        ValueError: A value is out of its range, or there is no theorem.
    """
    groups = None if client_rate is None else Groups.of(mechanism.participation, client_rate)
    unscaled = NoisePlan(mechanism=mechanism, noise_multiplier=1.0, groups=groups)

    def at(noise: float) -> Epsilon:
        return epsilon_gaussian(noise, delta) if groups is None else epsilon_amplified(noise, groups, delta)

    return replace(unscaled, noise_multiplier=smallest_noise(at, epsilon))
