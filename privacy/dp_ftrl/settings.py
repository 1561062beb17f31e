"""The table `[privacy.dp-ftrl]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.settings import ClipNorm, NoiseMultiplier, Section, check_one_of, invalid


class DpFtrlSettings(Section):
    """Client-level differential privacy by a trusted server with correlated noise (Denisov et al. 2022).

    Clients clip as with `dp-fedavg`; each round's noise cancels part of earlier noise, so that models, which are sums
    over rounds, have less of it. Privacy rests on how often and how far apart a client takes part, which
    `server.sampling = "b-min-sep"` enforces, not on secret cohorts. Neighbouring data: one client without effect
    (zero-out). The server sees the sums before the noise, and is trusted. No client metric is released: losses are
    for the experimenter only, in runs with seeded noise.
    """

    epsilon: float | None = Field(default=None, gt=0)
    """Privacy loss against `adversary`; determines the noise. Either this or `noise-multiplier`."""
    noise_multiplier: NoiseMultiplier | None = None
    """Standard deviation of the noise before it is correlated, in units of `clip` times the sensitivity: to all of a
    client's participations; for `released-models`, to one (as `fedsim budget dp-ftrl` has it)."""
    delta: float = Field(gt=0, lt=1)
    """Probability that epsilon does not hold: below 1 / clients."""
    clip: ClipNorm
    """Largest L2 norm of an update, in all rounds."""
    mechanism: Literal["banded", "blt", "sqrt-toeplitz"] = "banded"
    """Correlation of the noise: optimised banded matrix, optimised buffered one, or square root of prefix sums."""
    min_separation: int = Field(ge=1)
    """A client takes part at most once in so many rounds."""
    bands: int | None = Field(default=None, ge=1)
    """Bands of `banded`, at most `min-separation`, which is the default; 1 is independent noise."""
    buffers: int | None = Field(default=None, ge=1, le=8)
    """Buffers of `blt`: vectors in memory; unset: 3."""
    max_participations: int | None = Field(default=None, ge=1)
    """Most rounds in which a client takes part; it is then no longer drawn. Unset: as many as the separation allows."""
    adversary: Literal["known-cohort", "released-models"] = "known-cohort"
    """Adversary that `epsilon` holds against: knows who takes part, or sees the models only (for `banded`)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_of(self.epsilon, self.noise_multiplier)
        for name, value, mechanism in (("bands", self.bands, "banded"), ("buffers", self.buffers, "blt")):
            if value is not None and self.mechanism != mechanism:
                raise invalid(name, value, f"is for mechanism = {mechanism!r}, not {self.mechanism!r}")
        if (self.bands or 1) > self.min_separation:
            raise invalid(
                "bands",
                self.bands,
                f"must be at most min-separation, {self.min_separation}: a client's participations would overlap",
            )
        if self.adversary == "released-models":
            self._check_amplified()
        return self

    def _check_amplified(self) -> None:
        """Refuse secret cohorts where no theorem covers them."""
        if self.mechanism != "banded":
            raise invalid(
                "adversary",
                self.adversary,
                f"needs mechanism = 'banded', not {self.mechanism!r}: secret cohorts have a theorem for bands alone",
            )
        if self.max_participations is not None:
            raise invalid(
                "max-participations",
                self.max_participations,
                "a client that stops after some rounds is not Poisson-sampled, so there is no theorem for "
                "adversary = 'released-models'; allowed: 'known-cohort'",
            )
