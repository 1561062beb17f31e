"""The mechanism `[privacy.local-dp]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from fedsim.privacy.events import Event, Unit
from fedsim.privacy.halves import ClientDraws, ClientHalf
from fedsim.privacy.local_dp import checks, disclosure
from fedsim.privacy.local_dp.event import LocalDpEvent
from fedsim.privacy.local_dp.settings import LocalDpSettings
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.plan import Plan
from fedsim.privacy.training import Intent, Problem, Training


class LocalDp(Mechanism[LocalDpSettings]):
    """Client-level privacy against all adversaries: each client clips and noises its own update."""

    name = "local-dp"
    unit = Unit.CLIENT
    Settings = LocalDpSettings
    events: ClassVar[Mapping[str, type[Event]]] = {"local-dp": LocalDpEvent}
    covers = disclosure.COVERS
    report_terms = disclosure.REPORT_TERMS
    takes_any_sampling = True
    defaults: ClassVar[Mapping[str, Any]] = {"server.weighting": "uniform"}

    def check(self, settings: LocalDpSettings, intent: Intent) -> Iterable[Problem]:
        """Return problems of an experiment. As `Mechanism` says."""
        return checks.problems(intent)

    def plan(self, settings: LocalDpSettings, training: Training) -> Plan:
        """Return the noise for a training. As `Mechanism` says."""
        from fedsim.privacy.local_dp.plan import LocalDpPlan

        return LocalDpPlan(settings, training)

    def client(self, settings: LocalDpSettings, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half. As `Mechanism` says."""
        from fedsim.privacy.local_dp.client import NoisingClient

        return NoisingClient(settings, intent, draws)
