"""DP-SGD as fedsim knows it: `[privacy.dp-sgd]`."""

from __future__ import annotations

from fedsim.privacy.dp_sgd.client import DpSgdClient
from fedsim.privacy.dp_sgd.plan import DpSgdPlan
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Unit
from fedsim.privacy.mechanism import ClientDraws, ClientTraining, Mechanism, Training


class DpSgdMechanism(Mechanism[DpSgdSettings]):
    """Example-level privacy: each client trains with DP-SGD."""

    name = "dp-sgd"
    unit = Unit.EXAMPLE

    def plan(self, settings: DpSgdSettings, training: Training) -> DpSgdPlan:
        """Return the noise for a training. As `Mechanism` says."""
        return DpSgdPlan(settings, training)

    def client(self, settings: DpSgdSettings, training: ClientTraining, draws: ClientDraws) -> DpSgdClient:
        """Return the client's half. As `Mechanism` says."""
        return DpSgdClient(settings, training, draws)
