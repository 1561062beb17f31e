"""DP-SGD as fedsim knows it: `[privacy.dp-sgd]`."""

from __future__ import annotations

from fedsim.privacy.dp_sgd.plan import DpSgdPlan
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Unit
from fedsim.privacy.mechanism import Mechanism, Training


class DpSgdMechanism(Mechanism[DpSgdSettings]):
    """Example-level privacy: each client trains with DP-SGD."""

    name = "dp-sgd"
    unit = Unit.EXAMPLE

    def plan(self, settings: DpSgdSettings, training: Training) -> DpSgdPlan:
        """Return the noise for a training. As `Mechanism` says."""
        return DpSgdPlan(settings, training)
