"""Client-level mechanisms of an experiment: the tables under `[privacy]` that protect a whole client."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.complaints import complaint
from fedsim.section import Section
from privacy.ledger import Relation


class AdaptiveSection(Section):
    """Adaptive clipping: the clip norm follows a quantile of the updates' norms (Andrew et al. 2021).

    Each client also says, noised in the sum, whether its norm was below; the budget is split between the two.
    """

    quantile: float = Field(default=0.5, gt=0, lt=1)
    """Part of the clients whose updates are to be below the clip norm."""
    rate: float = Field(default=0.2, gt=0)
    """How fast it follows: eta of `C <- C exp(-eta (part below - quantile))`."""
    bit_noise: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the number of clients below; unset: a twentieth of the cohort."""


class DpFedavgSection(Section):
    """Client-level differential privacy by a trusted server (McMahan et al. 2018).

    Each client's update is clipped, over all its arrays together; all weigh the same; the server adds Gaussian
    noise to their sum and divides by the expected cohort. Protected is all of one client's data, against whoever sees
    the models; the server sees the sums before the noise, and is trusted.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """What `adversary` may learn at most; the noise follows from it. Either this or `noise-multiplier`."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise on the sum of the clipped updates, in units of `clip`."""
    delta: float = Field(gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients."""
    clip: float = Field(gt=0)
    """L2 norm that an update has at most; with `adaptive`, in the first round."""
    adversary: Literal["released-models", "known-cohort"] = "released-models"
    """Whom `epsilon` is meant for: who sees the models and not who takes part, or who knows that too."""
    relation: Literal["zero-out", "add-or-remove-one"] = "zero-out"
    """Neighbouring data: one client without effect, or one client more."""
    adaptive: AdaptiveSection | None = None
    """The clip norm follows the updates."""
    population: int | None = Field(default=None, ge=1)
    """Clients of a deployment that this stands for: its epsilon is told beside the simulation's, never instead."""
    population_cohort: int | None = Field(default=None, ge=1)
    """The deployment's expected cohort, with the noise on the mean as it is here."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise complaint(
                "noise-multiplier", self.noise_multiplier, "can't stand beside epsilon; allowed: one of them"
            )
        if self.epsilon is None and self.noise_multiplier is None:
            raise complaint("epsilon", None, "this or noise-multiplier must be set")
        if (self.population is None) != (self.population_cohort is None):
            raise complaint("population", self.population, "goes with population-cohort, and only with it")
        if (self.population_cohort or 0) > (self.population or 0):
            raise complaint(
                "population-cohort",
                self.population_cohort,
                f"must be at most the population, {self.population}",
            )
        return self

    @property
    def neighbours(self) -> Relation:
        """Which data sets are neighbours."""
        return Relation(self.relation)


class LocalDpSection(Section):
    """Local client-level differential privacy: each client clips and noises its own update, and trusts nobody.

    Protected is all of one client's data, against everybody, the server too; two updates are neighbours whatever they
    are, so that the noise is made for twice `clip`. That a client takes part is not hidden, so its being drawn by
    chance counts for nothing; epsilon is composed over the rounds that it takes part in.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """What anybody may learn at most; the noise follows from it. Either this or `noise-multiplier`."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Scale of the noise on each number (standard deviation, or Laplace's mean absolute value) over twice `clip`."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients; with Laplace noise there is none."""
    clip: float = Field(gt=0)
    """Norm that an update has at most: L2 for Gaussian noise, L1 for Laplace's."""
    law: Literal["gaussian", "laplace"] = "gaussian"
    """What the noise is distributed as."""
    max_participations: int | None = Field(default=None, ge=1)
    """Rounds that a client takes part in at most; it refuses more. Unset: every round."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise complaint(
                "noise-multiplier", self.noise_multiplier, "can't stand beside epsilon; allowed: one of them"
            )
        if self.epsilon is None and self.noise_multiplier is None:
            raise complaint("epsilon", None, "this or noise-multiplier must be set")
        if self.law == "gaussian" and self.delta is None:
            raise complaint("delta", None, "must be set: Gaussian noise keeps no epsilon for certain")
        if self.law == "laplace" and self.delta is not None:
            raise complaint("delta", self.delta, "is for law = 'gaussian'; Laplace noise needs none")
        return self

    def participations(self, rounds: int) -> int:
        """Return how many of a run's rounds a client takes part in at most."""
        return min(self.max_participations or rounds, rounds)

    def calibrated(self, rounds: int) -> float:
        """Return the noise multiplier: given, or the least that keeps epsilon over a run's participations.

        Server and clients come to the same number by themselves, for a client takes nobody's word for it.

        Raises:
            ValueError: No noise reaches the epsilon.
        """
        from privacy.accounting import local  # loads dp_accounting's parts where it calibrates

        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        times = self.participations(rounds)
        if self.delta is None:
            return local.laplace_noise(self.epsilon, times)
        return local.gaussian_noise(self.epsilon, times, self.delta)
