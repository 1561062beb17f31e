"""The interface of a privacy mechanism, which the rest of fedsim uses, and training without one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.events import Event, Ledger, Unit
from fedsim.privacy.halves import ClientDraws, ClientHalf, Losses
from fedsim.privacy.plan import Plan
from fedsim.privacy.settings import Section
from fedsim.privacy.training import Intent, Problem, Training

if TYPE_CHECKING:
    from torch import Tensor, nn

S = TypeVar("S", bound=Section)


class Kind(StrEnum):
    """What a value depends on, and so who may see it if noise is the operating system's."""

    PLAN = "the public plan, and how many rounds are over"
    MODELS = "the released models, scored on the central test set, which is taken as public"
    NOISED = "clients' metrics, noised within the same epsilon"
    COHORTS = "who took part when, and how many (that a client fails is taken not to depend on its data)"
    REST = "failures and their reasons, errors, times, bytes, losses without noise, the hash of the data"


@dataclass(frozen=True)
class Cover:
    """Values that a theorem covers.

    Attributes:
        mechanism: The table under `[privacy]`.
        adversary: As the manifest calls it.
        kinds: Values that this adversary may see; empty: nothing is written for it.
        theorem: The theorem.
    """

    mechanism: str
    adversary: str
    kinds: tuple[Kind, ...]
    theorem: str


SEES_MODELS = (Kind.PLAN, Kind.MODELS)


class Mechanism(ABC, Generic[S]):
    """A privacy mechanism; a single stateless object.

    Its module is loaded to validate experiments, so it must not import PyTorch or SciPy; `plan` may.

    Attributes:
        name: Its table under `[privacy]`; `own` for a user's own, which is not in the catalogue.
        unit: The privacy unit.
        Settings: The keys of its table.
        events: Its classes of ledger lines, by the lines' `mechanism`.
        covers: The outputs that its theorems let each adversary see, with the operating system's noise.
        report_terms: Keys of its own in an entry of `Plan.report` that may be public with the operating system's noise:
            functions of the plan.
        tuned: Keys of its table, or tables in it, that affect accuracy but not the guarantee.
        defaults: Keys that are set unless the experiment sets them, such as `{"server.weighting": "uniform"}`.
        separates: Whether it enforces a separation of a client's participations, as `server.sampling = "b-min-sep"`
            needs.
        takes_any_sampling: Whether its guarantee holds for any cohorts drawn independently of the data, such as a
            user's own sampling.
        counts_records: Whether accounting needs each client's number of examples at the server.
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
        """Return whether the number of clients is protected, so that no public constant may depend on it."""
        return False

    def has_given_noise(self, settings: S) -> bool:
        """Return whether the noise multiplier is given, so that epsilon follows from it."""
        return getattr(settings, "noise_multiplier", None) is not None

    def check(self, settings: S, intent: Intent) -> Iterable[Problem]:
        """Return conflicts of the mechanism with the experiment; the first one is reported."""
        return ()

    def check_model(
        self, settings: S, model: nn.Module, losses: Losses, inputs: Tensor, targets: Tensor
    ) -> None:
        """Refuse a model that can't be trained under the mechanism.

        Args:
            settings: The mechanism's table.
            model: May be put into training mode.
            losses: Maps outputs and targets to the loss of each example, `(n,)`.
            inputs: Of synthetic examples, `(n, *shape)`.
            targets: Of the same examples, `(n,)` or `(n, length)`.

        Raises:
            Unfit: A key of the table doesn't fit the model.
            ValueError: The mechanism can't train the model with any settings.
        """

    @abstractmethod
    def plan(self, settings: S, training: Training) -> Plan:
        """Return the plan for a training, with given or calibrated noise; calibration may take seconds.

        Raises:
            ValueError: The settings don't fit the training (`Unfit`), no noise reaches the epsilon, or no guarantee
                is known for these parameters.
        """

    @abstractmethod
    def client(self, settings: S, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half; raises `ValueError` if no noise reaches the epsilon.

        Every process makes one, so it must not calibrate for long.
        """

    def metric_terms(self, settings: S) -> Mapping[str, str]:
        """Return the metrics that clients send for noised sums: names in a reply, by names in the ledger."""
        return {}


class Unprotected(Mechanism[Section]):
    """Training without a privacy mechanism: no noise, and no accounting."""

    name = "none"
    unit = Unit.EXAMPLE
    Settings = Section
    takes_any_sampling = True

    def plan(self, settings: Section, training: Training) -> UnprotectedPlan:
        """Return the plan: cohorts only."""
        return UnprotectedPlan(training)

    def client(self, settings: Section, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half: it does nothing."""
        return ClientHalf()


class UnprotectedPlan(Plan):
    """Cohorts only."""

    by_clients = False

    def __init__(self, training: Training) -> None:
        rule = training.rule
        self.cohorts = Cohorts.of(rule.sampling, rule.cohort, training.clients, most=rule.max_cohort)
        self.noise_multiplier = 0.0

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Do nothing: there is no budget."""

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return nothing: there is no epsilon."""
        return {}

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return nothing: there is no epsilon."""
        return {}
