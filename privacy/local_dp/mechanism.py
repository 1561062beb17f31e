"""Local DP as fedsim knows it: `[privacy.local-dp]`."""

from __future__ import annotations

from fedsim.privacy.events import Unit
from fedsim.privacy.local_dp.client import NoisingClient
from fedsim.privacy.local_dp.plan import LocalDpPlan
from fedsim.privacy.local_dp.settings import LocalDpSettings
from fedsim.privacy.mechanism import ClientDraws, ClientTraining, Mechanism, Training


class LocalDp(Mechanism[LocalDpSettings]):
    """Client-level privacy against everybody: each client clips and noises its own update."""

    name = "local-dp"
    unit = Unit.CLIENT

    def plan(self, settings: LocalDpSettings, training: Training) -> LocalDpPlan:
        """Return the noise for a training. As `Mechanism` says."""
        return LocalDpPlan(settings, training)

    def client(
        self, settings: LocalDpSettings, training: ClientTraining, draws: ClientDraws
    ) -> NoisingClient:
        """Return the client's half. As `Mechanism` says."""
        return NoisingClient(settings, training, draws)
