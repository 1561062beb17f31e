"""Local DP on a client: it clips and noises its own update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fedsim.privacy.events import Law
from fedsim.privacy.halves import ClientDraws, ClientHalf, ClientRound, Protected
from fedsim.privacy.local_dp.noise import LocalNoise
from fedsim.privacy.local_dp.settings import LocalDpSettings
from fedsim.privacy.training import Intent

UPDATE = "update"


class NoisingClient(ClientHalf):
    """Clips and noises the update jointly over all arrays. An update with NaN or infinity counts as zero.

    Clip norm and noise come from the experiment. The client calibrates the noise itself: it does not trust the
    server's value.

    Args:
        settings: The table `[privacy.local-dp]`.
        intent: What the experiment says.
        draws: Draws the noise.

    Raises:
        ValueError: No noise reaches the epsilon.
    """

    releases = True
    protects = "model"

    def __init__(self, settings: LocalDpSettings, intent: Intent, draws: ClientDraws) -> None:
        self.most = settings.participations(intent.rounds)
        self._settings = settings
        self._arithmetic = intent.arithmetic
        self._noise_multiplier = settings.calibrated(intent.rounds)
        self._draws = draws

    def protect(self, update: NDArray[Any], metrics: Mapping[str, float], at: ClientRound) -> Protected:
        """Return the noised update, and its event. As `ClientHalf` says."""
        noise = LocalNoise(
            law=Law(self._settings.law),
            clip=self._settings.clip,
            noise_multiplier=self._noise_multiplier,
            arithmetic=self._arithmetic,
            randomness=self._draws.noise("local-dp-noise", at),
        )
        released = noise.release({UPDATE: update}, at.round, at.client)
        return Protected(released.arrays[UPDATE], {}, released.event)
