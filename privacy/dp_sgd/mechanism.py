"""The mechanism `[privacy.dp-sgd]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from fedsim.privacy.dp_sgd import checks, disclosure
from fedsim.privacy.dp_sgd.release import DpSgdEvent
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Event, Unit
from fedsim.privacy.halves import ClientDraws, Losses
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.training import Intent, Problem, Training, Unfit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedsim.privacy.dp_sgd.client import DpSgdClient
    from fedsim.privacy.dp_sgd.plan import DpSgdPlan


class DpSgdMechanism(Mechanism[DpSgdSettings]):
    """Example-level privacy: each client trains with DP-SGD."""

    name = "dp-sgd"
    unit = Unit.EXAMPLE
    Settings = DpSgdSettings
    events: ClassVar[Mapping[str, type[Event]]] = {"dp-sgd": DpSgdEvent}
    covers = disclosure.COVERS
    report_terms = disclosure.REPORT_TERMS
    counts_records = True
    takes_any_sampling = True

    def check(self, settings: DpSgdSettings, intent: Intent) -> Iterable[Problem]:
        """Return problems of an experiment. As `Mechanism` says."""
        return checks.problems(settings, intent)

    def check_model(
        self, settings: DpSgdSettings, model: nn.Module, losses: Losses, inputs: Tensor, targets: Tensor
    ) -> None:
        """Refuse a model that mixes examples, and a kernel that can't train it. As `Mechanism` says."""
        from fedsim.privacy.dp_sgd.gradient import PrivateGradient
        from fedsim.privacy.dp_sgd.independence import check_independent
        from fedsim.privacy.dp_sgd.validator import check_model

        check_model(model)
        try:
            PrivateGradient(
                model, losses, clip=settings.clip, kernel=settings.kernel, max_batch=settings.max_batch
            )
        except ValueError as error:
            raise Unfit("kernel", repr(settings.kernel), str(error)) from None
        try:
            check_independent(model, losses, inputs, targets)
        except RuntimeError as error:  # PyTorch's, if the model does not fit the inputs
            raise ValueError(str(error)) from None

    def plan(self, settings: DpSgdSettings, training: Training) -> DpSgdPlan:
        """Return the noise for a training. As `Mechanism` says."""
        from fedsim.privacy.dp_sgd.plan import DpSgdPlan

        return DpSgdPlan(settings, training)

    def client(self, settings: DpSgdSettings, intent: Intent, draws: ClientDraws) -> DpSgdClient:
        """Return the client's half. As `Mechanism` says."""
        from fedsim.privacy.dp_sgd.client import DpSgdClient

        return DpSgdClient(settings, intent, draws)
