"""The mechanism `[privacy.dp-ftrl]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from fedsim.privacy.dp_ftrl import checks, disclosure
from fedsim.privacy.dp_ftrl.event import MatrixEvent
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.events import Event, Unit
from fedsim.privacy.halves import ClientDraws, ClientHalf
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.plan import Plan
from fedsim.privacy.training import Intent, Problem, Training


class DpFtrl(Mechanism[DpFtrlSettings]):
    """Client-level privacy by a trusted server, with noise that is correlated over rounds."""

    name = "dp-ftrl"
    unit = Unit.CLIENT
    Settings = DpFtrlSettings
    events: ClassVar[Mapping[str, type[Event]]] = {"dp-ftrl": MatrixEvent}
    covers = disclosure.COVERS
    report_terms = disclosure.REPORT_TERMS
    defaults: ClassVar[Mapping[str, Any]] = {"server.weighting": "uniform"}
    separates = True

    def check(self, settings: DpFtrlSettings, intent: Intent) -> Iterable[Problem]:
        """Return problems of an experiment. As `Mechanism` says."""
        return checks.problems(settings, intent)

    def plan(self, settings: DpFtrlSettings, training: Training) -> Plan:
        """Return the noise for a training. As `Mechanism` says."""
        from fedsim.privacy.dp_ftrl.plan import DpFtrlPlan

        return DpFtrlPlan(settings, training)

    def client(self, settings: DpFtrlSettings, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half: it clips, as with DP-FedAvg. As `Mechanism` says."""
        from fedsim.privacy.dp_fedavg.client import ClippingClient

        return ClippingClient({})
