"""DP-FedAvg as fedsim knows it: `[privacy.dp-fedavg]`."""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.privacy.dp_fedavg.adaptive import BITS
from fedsim.privacy.dp_fedavg.client import ClippingClient
from fedsim.privacy.dp_fedavg.metrics import SHIFTED_BIT, shifted_name
from fedsim.privacy.dp_fedavg.plan import DpFedAvgPlan
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.events import Unit
from fedsim.privacy.mechanism import ClientDraws, ClientTraining, Mechanism, Training


class DpFedAvg(Mechanism[DpFedAvgSettings]):
    """Client-level privacy by a trusted server, which noises the sum of clipped updates."""

    name = "dp-fedavg"
    unit = Unit.CLIENT

    def plan(self, settings: DpFedAvgSettings, training: Training) -> DpFedAvgPlan:
        """Return the noise for a training. As `Mechanism` says."""
        return DpFedAvgPlan(settings, training)

    def client(
        self, settings: DpFedAvgSettings, training: ClientTraining, draws: ClientDraws
    ) -> ClippingClient:
        """Return the client's half. As `Mechanism` says."""
        return ClippingClient(settings.released)

    def metric_terms(self, settings: DpFedAvgSettings) -> Mapping[str, str]:
        """Return the metrics that clients send for noised sums: released ones, and whether the norm was below."""
        bits = {BITS: SHIFTED_BIT} if settings.adaptive is not None else {}
        return bits | {name: shifted_name(name) for name in settings.released}
