"""What correlated noise costs: a whole training as one Gaussian mechanism, or as sampled ones where groups take turns.

Unit: a client with all its participations. Neighbouring relation: zero-out. Noise: ideal real Gaussians. The server,
which sees the sums before the noise, is no adversary here: against it epsilon is infinite.
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
    """Clients in groups that take turns; in its turn each client of a group takes part by a secret coin of its own.

    With a strategy of at most as many bands as there are groups, a client's participations lie in rows that don't
    overlap, and the training is `steps` Poisson-sampled Gaussian mechanisms (Choquette-Choo et al. 2023,
    arXiv 2306.08153). For the expected cohort to be the same as without groups, a coin must come up
    `count` times as often as the client rate says: only N / count clients can be drawn in a round. An account with the
    client rate itself, as pfl-research makes it, is that of cohorts that are `count` times as small.

    Attributes:
        count: Groups, 1 or more. Group g (from 0) has its turn in rounds g + 1, g + 1 + count, ...
        rounds: 1 or more.
        client_rate: Expected cohort / all clients, above 0 and at most 1 / count. A public constant.
    """

    count: int
    rounds: int
    client_rate: float

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of its range.
        """
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
        """With which probability a client is in the cohort in its group's turn."""
        return min(self.client_rate * self.count, 1.0)

    @property
    def steps(self) -> int:
        """Turns of a group, at most."""
        return -(-self.rounds // self.count)


@lru_cache(maxsize=4096)
def epsilon_gaussian(noise_multiplier: float, delta: float) -> Epsilon:
    """Return the epsilon of one Gaussian mechanism, which a training with correlated noise is, however long.

    It holds for any cohorts that keep to the participation pattern, also if they are known.

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
    """Return epsilon against who sees the released models, but not the cohorts; for banded strategies alone.

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
    """Return the smallest noise multiplier (up to 0.1 %) that `epsilon_gaussian` finds to keep to an epsilon.

    Raises:
        ValueError: A value is out of its range.
    """
    return smallest_noise(lambda noise: epsilon_gaussian(noise, delta), epsilon)


def noise_amplified(epsilon: float, groups: Groups, delta: float) -> float:
    """Return the smallest noise multiplier (up to 0.1 %) that `epsilon_amplified` finds to keep to an epsilon.

    Raises:
        ValueError: A value is out of its range.
    """
    return smallest_noise(lambda noise: epsilon_amplified(noise, groups, delta), epsilon)
