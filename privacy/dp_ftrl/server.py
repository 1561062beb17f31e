"""DP-FTRL on the server: each round's sum is released with its row of correlated noise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_ftrl.calibration import NoisePlan
from fedsim.privacy.dp_ftrl.release import CorrelatedGaussian
from fedsim.privacy.events import Noise
from fedsim.privacy.halves import Released, ServerHalf, Sums
from fedsim.privacy.randomness import KeyedRandomness, Prefetch, Randomness
from fedsim.privacy.training import Draws, Training
from fedsim.privacy.vectors import concatenated, split_like


class DpFtrlServer(ServerHalf):
    """The server's half of DP-FTRL.

    The noise's state is secret, and is in the checkpoint. Unseeded noise has one secret key for all sessions of a
    run, so that a round interrupted by a kill draws the same noise again.

    Args:
        noise: The factorization and its noise.
        clip: Largest L2 norm of an update.
        training: The training to protect.
        cohorts: How cohorts are drawn.
        draws: Draws seeded noise.

    Attributes:
        key: Key of the noise; empty if it is seeded.

    Raises:
        ValueError: No theorem covers these values.
    """

    noises = True

    def __init__(
        self, noise: NoisePlan, clip: float, training: Training, cohorts: Cohorts, draws: Draws
    ) -> None:
        self._noise = noise
        self._clip = clip
        self._training = training
        self._cohorts = cohorts
        self._draws = draws
        self.key = os.urandom(32) if draws.source is Noise.SYSTEM else b""
        self._randomness = Prefetch(self._noise_of, training.dimension)
        self._releases = self._begun(None)

    def instructions(self) -> dict[str, Any]:
        """Return the clip norm."""
        return {"clip-norm": self._clip}

    def prefetch(self, round_: int) -> None:
        """Begin to draw a round's noise, while clients train."""
        self._randomness.begin(round_)

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Release a round's sum with its row of noise. As `ServerHalf` says.

        Raises:
            ValueError: The round's row was made before.
        """
        released = self._releases.release(concatenated(total, self._training.shapes), round_)
        return Released(split_like(released.mean, self._training.shapes), {}, released.event)

    def state(self) -> dict[str, Any]:
        """Return the noise's state; secret."""
        return {"noise": self._releases.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. As `ServerHalf` says."""
        self._releases = self._begun(state["noise"])

    def _begun(self, state: Mapping[str, Any] | None) -> CorrelatedGaussian:
        return CorrelatedGaussian(
            self._noise,
            self._cohorts,
            sum_sensitivity=self._training.sum_sensitivity(self._clip),
            size=self._training.dimension,
            randomness=self._randomness,
            state=state,
            arithmetic=self._training.arithmetic,
        )

    def _noise_of(self, round_: int) -> Randomness:
        if self._draws.source is Noise.SYSTEM:
            return KeyedRandomness(self.key, f"dp-ftrl noise, round {round_}")
        return self._draws.noise("dp-ftrl-noise", round_)
