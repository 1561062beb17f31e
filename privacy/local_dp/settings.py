"""The table `[privacy.local-dp]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.settings import ClipNorm, NoiseMultiplier, Section, check_one_of, invalid


class LocalDpSettings(Section):
    """Local client-level differential privacy: each client clips and noises its own update, and trusts no other party.

    This protects all data of a client against everyone, including the server. Any two updates are neighbours, so the
    sensitivity is twice `clip`. Participation is not hidden, so sampling does not amplify; epsilon is composed over
    the client's rounds. No client metric is released: losses are for the experimenter only, in runs with seeded
    noise.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """Privacy loss against any adversary; determines the noise. Either this or `noise-multiplier`."""
    noise_multiplier: NoiseMultiplier | None = None
    """Scale of the noise on each number (standard deviation, or Laplace's mean absolute value) over twice `clip`."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients; with Laplace noise there is none."""
    clip: ClipNorm
    """Largest norm of an update: L2 for Gaussian noise, L1 for Laplace noise."""
    law: Literal["gaussian", "laplace"] = "gaussian"
    """Distribution of the noise."""
    max_participations: int | None = Field(default=None, ge=1)
    """Most rounds in which a client takes part; it refuses more. Unset: every round."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_of(self.epsilon, self.noise_multiplier)
        if self.law == "gaussian" and self.delta is None:
            raise invalid("delta", None, "must be set: Gaussian noise keeps no epsilon for certain")
        if self.law == "laplace" and self.delta is not None:
            raise invalid("delta", self.delta, "is for law = 'gaussian'; Laplace noise needs none")
        return self

    def participations(self, rounds: int) -> int:
        """Return the most rounds of a run in which a client takes part."""
        return min(self.max_participations or rounds, rounds)

    def calibrated(self, rounds: int) -> float:
        """Return the noise multiplier: given, or the smallest that keeps epsilon over a run's participations.

        Server and clients compute it independently: a client does not trust the server's value.

        Raises:
            ValueError: No noise reaches the epsilon.
        """
        from fedsim.privacy.local_dp.accounting import noise_for  # loads NumPy

        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        return noise_for(self.epsilon, self.participations(rounds), self.delta)
