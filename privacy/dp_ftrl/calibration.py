"""Compares mechanisms at equal privacy, before a run."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.privacy.accounting.steps import Epsilon
from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.accounting import (
    Groups,
    epsilon_amplified,
    epsilon_gaussian,
    noise_amplified,
    noise_gaussian,
)
from fedsim.privacy.dp_ftrl.factorization import (
    BUFFERS,
    Factorization,
    banded,
    buffered,
    independent,
    square_root_banded,
    square_root_toeplitz,
)
from fedsim.privacy.dp_ftrl.strategies import Banded
from fedsim.privacy.dp_ftrl.toeplitz import Objective


@dataclass(frozen=True, kw_only=True)
class NoisePlan:
    """A mechanism with its noise, with or without amplification by secret cohorts.

    Attributes:
        mechanism: Releases the sums.
        noise_multiplier: Standard deviation of z over `sensitivity`.
        groups: Groups that cohorts are drawn from; None: any cohorts that keep the pattern.
    """

    mechanism: Factorization
    noise_multiplier: float
    groups: Groups | None = None

    def __post_init__(self) -> None:
        """Check that a theorem covers these values.

        Raises:
            ValueError: There are groups, but the strategy isn't banded, or has more bands; or the pattern is another.
        """
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
    """Return a mechanism with the smallest noise for an epsilon against an adversary that sees the released models.

    Args:
        mechanism: Releases the sums.
        epsilon: Above 0.
        delta: Above 0 and below 1.
        client_rate: Expected cohort / all clients, if cohorts are drawn from groups, as many as the separation; None:
            no amplification, so that epsilon holds also if cohorts are known.

    Raises:
        ValueError: A value is out of its range, or there is no theorem.
    """
    if client_rate is None:
        return NoisePlan(mechanism=mechanism, noise_multiplier=noise_gaussian(epsilon, delta))
    pattern = mechanism.participation
    groups = Groups(count=pattern.separation, rounds=pattern.rounds, client_rate=client_rate)
    unchecked = NoisePlan(mechanism=mechanism, noise_multiplier=1.0, groups=groups)
    noise = noise_amplified(epsilon, groups, delta)
    return NoisePlan(mechanism=unchecked.mechanism, noise_multiplier=noise, groups=groups)


def alternatives(
    participation: Participation, bands: int | None = None, buffers: int = BUFFERS
) -> list[Factorization]:
    """Return the available mechanisms for a pattern, independent noise first.

    Args:
        participation: The pattern.
        bands: Of the banded ones; None: the separation.
        buffers: Of the buffered one.

    Raises:
        ValueError: As the mechanisms raise it.
    """
    bands = participation.separation if bands is None else bands
    return [
        independent(participation),
        square_root_toeplitz(participation),
        square_root_banded(participation, bands),
        banded(participation, bands),
        buffered(participation, buffers),
    ]
