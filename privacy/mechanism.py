"""What a privacy mechanism is: settings, a plan made of them for a training, and what server and clients do by it.

A mechanism's package under `fedsim.privacy` implements these; the rest of fedsim knows mechanisms by them alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from fedsim.privacy.client_half import ClientDraws, ClientHalf
from fedsim.privacy.disclosure import Cover
from fedsim.privacy.events import Event, Unit
from fedsim.privacy.intent import Intent, Problem
from fedsim.privacy.plan import Plan
from fedsim.privacy.settings import Section
from fedsim.privacy.training import Training

if TYPE_CHECKING:
    from torch import Tensor, nn

S = TypeVar("S", bound=Section)


class Mechanism(ABC, Generic[S]):
    """A privacy mechanism; one object, without state.

    Its module is loaded whenever an experiment is validated, so it loads neither PyTorch nor SciPy: `plan` does.

    Attributes:
        name: Its table under `[privacy]`; `own` for a user's own, which stands in no catalogue.
        unit: What it protects.
        Settings: The keys of its table.
        events: Its kinds of ledger lines: the `mechanism` of each, and the class.
        covers: What its theorems let each adversary have, where noise is the operating system's.
        report_terms: Keys of an entry of `Plan.report`, beside those that all mechanisms share, which may be public
            where noise is the operating system's: functions of the plan.
        tuned: Keys of its table, or tables in it, that change how well it learns and not what it promises.
        defaults: Keys that are set where an experiment doesn't set them, such as `{"server.weighting": "uniform"}`.
        separates: Whether it keeps a client's participations apart, as `server.sampling = "b-min-sep"` needs.
        takes_any_sampling: Whether its guarantee holds for cohorts that are drawn in any way that doesn't look at the data,
            as a user's own.
        counts_records: Whether the server must know how many examples each client has, to account for it.
    """

    name: ClassVar[str] = "own"
    unit: ClassVar[Unit]
    Settings: type[S]
    events: ClassVar[Mapping[str, type[Event]]] = {}
    covers: ClassVar[tuple[Cover, ...]] = ()
    report_terms: ClassVar[frozenset[str]] = frozenset()
    tuned: ClassVar[frozenset[str]] = frozenset({"clip"})
    defaults: ClassVar[Mapping[str, Any]] = {}
    separates: ClassVar[bool] = False
    takes_any_sampling: ClassVar[bool] = False
    counts_records: ClassVar[bool] = False

    def hides_clients(self, settings: S) -> bool:
        """Say whether the number of clients is protected, so that no public constant may be made of it."""
        return False

    def has_given_noise(self, settings: S) -> bool:
        """Say whether the noise is given, and epsilon follows from it; else epsilon is, or there is none."""
        return getattr(settings, "noise_multiplier", None) is not None

    def check(self, settings: S, intent: Intent) -> Iterable[Problem]:
        """Return what an experiment says that this mechanism can't stand beside; the first one is told."""
        return ()

    def check_model(
        self,
        settings: S,
        model: nn.Module,
        losses: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> None:
        """Refuse a model that can't be trained under the mechanism.

        Args:
            settings: The mechanism's table.
            model: May be put into training mode.
            losses: Returns the loss of each example, `(n,)`, of the model's outputs and the targets.
            inputs: Of made-up examples, `(n, *shape)`.
            targets: Theirs, `(n,)` or `(n, length)`.

        Raises:
            Unfit: A key of the table doesn't fit the model.
            ValueError: The model can't be trained so, whatever the table says.
        """

    @abstractmethod
    def plan(self, settings: S, training: Training) -> Plan:
        """Return the noise for a training: given, or calibrated, which may take seconds.

        Raises:
            ValueError: The settings don't fit the training (`Unfit`), no noise reaches the epsilon, or no theorem
                covers these values.
        """

    @abstractmethod
    def client(self, settings: S, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half; it calibrates nothing that takes long, for every process makes one.

        Raises:
            ValueError: No noise reaches the epsilon.
        """

    def metric_terms(self, settings: S) -> Mapping[str, str]:
        """Return the metrics that clients send for noised sums: the name in a reply, by the name in the ledger."""
        return {}
