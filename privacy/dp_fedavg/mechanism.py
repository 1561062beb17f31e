"""The mechanism `[privacy.dp-fedavg]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from fedsim.privacy.dp_fedavg import checks, disclosure
from fedsim.privacy.dp_fedavg.adaptive import BITS
from fedsim.privacy.dp_fedavg.event import CohortEvent
from fedsim.privacy.dp_fedavg.gaussian import SHIFTED_BIT, shifted_name
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.events import Event, Relation, Unit
from fedsim.privacy.halves import ClientDraws, ClientHalf
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.plan import Plan
from fedsim.privacy.training import Intent, Problem, Training


class DpFedAvg(Mechanism[DpFedAvgSettings]):
    """Client-level privacy by a trusted server, which noises the sum of clipped updates."""

    name = "dp-fedavg"
    unit = Unit.CLIENT
    Settings = DpFedAvgSettings
    events: ClassVar[Mapping[str, type[Event]]] = {
        "dp-fedavg": CohortEvent,
        "dp-fedavg-adaptive": CohortEvent,
    }
    covers = disclosure.COVERS
    tuned = frozenset({"clip", "adaptive"})
    defaults: ClassVar[Mapping[str, Any]] = {"server.weighting": "uniform"}

    def hides_clients(self, settings: DpFedAvgSettings) -> bool:
        """Say whether the number of clients is protected. As `Mechanism` says."""
        return settings.neighbours is Relation.ADD_OR_REMOVE_ONE

    def check(self, settings: DpFedAvgSettings, intent: Intent) -> Iterable[Problem]:
        """Return problems of an experiment. As `Mechanism` says."""
        return checks.problems(settings, intent)

    def plan(self, settings: DpFedAvgSettings, training: Training) -> Plan:
        """Return the noise for a training. As `Mechanism` says."""
        from fedsim.privacy.dp_fedavg.plan import DpFedAvgPlan

        return DpFedAvgPlan(settings, training)

    def client(self, settings: DpFedAvgSettings, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half. As `Mechanism` says."""
        from fedsim.privacy.dp_fedavg.client import ClippingClient

        return ClippingClient(settings.released)

    def metric_terms(self, settings: DpFedAvgSettings) -> Mapping[str, str]:
        """Return the metrics that clients send for noised sums: released ones, and the bit for the clip norm."""
        bits = {BITS: SHIFTED_BIT} if settings.adaptive is not None else {}
        return bits | {name: shifted_name(name) for name in settings.released}
