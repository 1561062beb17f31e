"""The table `[privacy.local-dp]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.settings import Section
from fedsim.privacy.validation import check_one_of, invalid


class LocalDpSettings(Section):
    """Local client-level differential privacy: each client clips and noises its own update, and trusts nobody.

    Protected is all of one client's data, against everybody, the server too; two updates are neighbours whatever they
    are, so that the noise is made for twice `clip`. That a client takes part is not hidden, so its being drawn by
    chance counts for nothing; epsilon is composed over the rounds that it takes part in. No metric of a client is
    released: its losses are the experimenter's view, which only runs with seeded noise have.
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
        check_one_of(self.epsilon, self.noise_multiplier)
        if self.law == "gaussian" and self.delta is None:
            raise invalid("delta", None, "must be set: Gaussian noise keeps no epsilon for certain")
        if self.law == "laplace" and self.delta is not None:
            raise invalid("delta", self.delta, "is for law = 'gaussian'; Laplace noise needs none")
        return self

    def participations(self, rounds: int) -> int:
        """Return how many of a run's rounds a client takes part in at most."""
        return min(self.max_participations or rounds, rounds)

    def calibrated(self, rounds: int) -> float:
        """Return the noise multiplier: given, or the least that keeps epsilon over a run's participations.

        Server and clients come to the same number by themselves: a client does not trust the server's value.

        Raises:
            ValueError: No noise reaches the epsilon.
        """
        from fedsim.privacy.local_dp.accounting import noise_for  # loads NumPy where it calibrates

        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        return noise_for(self.epsilon, self.participations(rounds), self.delta)
