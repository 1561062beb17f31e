"""DP-FTRL as fedsim knows it: `[privacy.dp-ftrl]`."""

from __future__ import annotations

from fedsim.privacy.dp_fedavg.client import ClippingClient
from fedsim.privacy.dp_ftrl.plan import DpFtrlPlan
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.events import Unit
from fedsim.privacy.mechanism import ClientDraws, ClientTraining, Mechanism, Training


class DpFtrl(Mechanism[DpFtrlSettings]):
    """Client-level privacy by a trusted server, with noise that is correlated over rounds."""

    name = "dp-ftrl"
    unit = Unit.CLIENT

    def plan(self, settings: DpFtrlSettings, training: Training) -> DpFtrlPlan:
        """Return the noise for a training. As `Mechanism` says."""
        return DpFtrlPlan(settings, training)

    def client(
        self, settings: DpFtrlSettings, training: ClientTraining, draws: ClientDraws
    ) -> ClippingClient:
        """Return the client's half: it clips, as with DP-FedAvg. As `Mechanism` says."""
        return ClippingClient({})
