"""Accounting of correlated noise: a training is one Gaussian mechanism, or sampled ones if groups take turns.

Unit: a client with all its participations. Neighbouring relation: zero-out. Noise: ideal real Gaussians. The server
sees the sums before the noise: against it epsilon is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from fedsim.privacy.accounting import renyi
from fedsim.privacy.accounting.adversaries import known_cohort
from fedsim.privacy.accounting.calibration import smallest_noise
from fedsim.privacy.accounting.steps import Epsilon, LocalSteps, check_delta


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Groups of clients that take turns; each client of the current group is drawn by secret Poisson sampling.

    With a strategy of at most as many bands as groups, a client's participations lie in rows that don't overlap, and
    the training is `steps` Poisson-sampled Gaussian mechanisms (Choquette-Choo et al. 2023, arXiv 2306.08153). Only N
    / count clients can be drawn in a round, so for the same expected cohort the sampling rate is `count` times the
    client rate. Accounting with the client rate itself, as pfl-research does, assumes cohorts `count` times as small.

    Attributes:
        count: Groups, 1 or more. Group g (from 0) has its turn in rounds g + 1, g + 1 + count, ...
        rounds: 1 or more.
        client_rate: Expected cohort / all clients, above 0 and at most 1 / count. A public constant.

    Raises:
        ValueError: A value is out of its range.
    """

    count: int
    rounds: int
    client_rate: float

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"groups = {self.count}: must be 1 or more")
        if self.rounds < 1:
            raise ValueError(f"rounds = {self.rounds}: must be 1 or more")
        if not 0 < self.client_rate <= 1:
            raise ValueError(f"client rate = {self.client_rate}: must be above 0 and at most 1")
        if self.client_rate * self.count > 1 + 1e-12:
            raise ValueError(
                f"client rate = {self.client_rate}: a cohort of {self.client_rate:.4g} of all clients can't come from "
                f"one of {self.count} groups; at most 1 / groups = {1 / self.count:.4g}"
            )

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

    It holds for all cohorts that keep the participation pattern, even if known.

    Args:
        noise_multiplier: Deviation of z over the L2 sensitivity of C x under the pattern; 0 or more.
        delta: Above 0 and below 1.

    Returns:
        `pld` is exact (Balle, Wang 2018, arXiv 1805.06530, Theorem 8).

    Raises:
        ValueError: A value is out of its range.

    >>> round(epsilon_gaussian(4.0, 1e-6).pld, 5)
    1.0607
    """
    check_delta(delta)
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"noise multiplier = {noise_multiplier}: must be 0 or more, and finite")
    if noise_multiplier < renyi.LEAST:
        return Epsilon(math.inf, math.inf)
    from dp_accounting import get_epsilon_gaussian

    return Epsilon(
        float(get_epsilon_gaussian(noise_multiplier, delta)), renyi.epsilon(noise_multiplier, 1.0, 1, delta)
    )


def epsilon_amplified(noise_multiplier: float, groups: Groups, delta: float) -> Epsilon:
    """Return epsilon against an adversary that sees the models but not the cohorts; for banded strategies only.

    Args:
        noise_multiplier: Deviation of z over the L2 sensitivity of C x to *one* participation; 0 or more.
        groups: At least as many as the strategy has bands; each client's by a hash of its identity.
        delta: Above 0 and below 1.

    Raises:
        ValueError: A value is out of its range.

    >>> groups = Groups(count=50, rounds=1500, client_rate=1e3 / 1e6)
    >>> round(epsilon_amplified(0.5315, groups, 1e-6).pld, 1)
    12.0
    """
    step = LocalSteps(noise_multiplier=noise_multiplier, rate=groups.rate, steps=groups.steps)
    return known_cohort(step, 1, delta)


def noise_gaussian(epsilon: float, delta: float) -> float:
    """Return the smallest noise multiplier (up to 0.1 %) with at most this `epsilon_gaussian`.

    Raises:
        ValueError: A value is out of its range.
    """
    return smallest_noise(lambda noise: epsilon_gaussian(noise, delta), epsilon)


def noise_amplified(epsilon: float, groups: Groups, delta: float) -> float:
    """Return the smallest noise multiplier (up to 0.1 %) with at most this `epsilon_amplified`.

    Raises:
        ValueError: A value is out of its range.
    """
    return smallest_noise(lambda noise: epsilon_amplified(noise, groups, delta), epsilon)
