"""Types of catalogue entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from fedsim import options as o
from fedsim.errors import Refused
from fedsim.privacy.settings import kebab
from fedsim.references import check_makes, load_reference


class Kind(StrEnum):
    """Kind of an example's input."""

    IMAGE = "image"  # (channels, height, width), uint8 or float32
    FEATURES = "features"  # (features,), float32
    TEXT = "text"  # (length,), integer tokens


class Targets(StrEnum):
    """Kind of the targets."""

    LABELS = "labels"  # int64 from 0, one for each input
    TOKENS = "tokens"  # of a text: the input, shifted by one position
    VALUES = "values"  # float32, one or more for each input


@dataclass(frozen=True)
class Entry:
    """An entry: its name, the reference to its code, a summary and its options."""

    name: str
    reference: str
    summary: str = ""
    _: KW_ONLY
    options: type[o.Options] = o.Options
    beside: frozenset[str] = frozenset()  # keys of the table that only some entries use
    makes: ClassVar[str] = ""  # reference of the class whose objects it makes; empty: its user checks it

    def load(self) -> Any:
        """Import and return the referenced object; `Refused` if a user's own makes nothing of the entry's kind."""
        found = load_reference(self.reference)
        if ":" in self.name and self.makes:
            check_makes(found, self.makes)
        return found


@dataclass(frozen=True, kw_only=True)
class SourceEntry(Entry):
    """A source of data: `reference` is a function `(options, generator, targets) -> fedsim.data.raw.Raw`.

    `targets` are the kind that the task needs; `task` maps the options to the default task.
    """

    makes: ClassVar = "fedsim.data.raw:Raw"
    task: Callable[[Any], str] = lambda options: "classification"
    has_users: bool = False  # examples belong to users, for natural partitions
    by_clients: bool = False  # clients bring their own examples: no partition, no simulation


@dataclass(frozen=True, kw_only=True)
class PartitionEntry(Entry):
    """A way to deal examples to clients: `reference` is a function of `fedsim.data.partitions`."""

    by_label: bool = False  # uses labels: not for next-character text and real-valued targets
    by_user: bool = False  # uses users: only for sources that have them


class TaskEntry(Entry):
    """A task: `reference` is a class `(data, options)` that implements `fedsim.tasks.Task`."""

    def targets(self) -> Targets:
        """Import the task, and return the kind of its targets; raises `Refused` if it has none."""
        found = getattr(self.load(), "targets", None)
        if found not in set(Targets):
            raise Refused(
                f"task.name = {self.name!r}: has no attribute targets; allowed: {', '.join(Targets)}"
            )
        return Targets(found)


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """A model: `reference` is a function `(task, options) -> torch.nn.Module`."""

    makes: ClassVar = "torch.nn:Module"
    draws: bool = False  # draws random numbers in training, as dropout does
    kinds: frozenset[Kind] = frozenset(Kind)


@dataclass(frozen=True, kw_only=True)
class StrategyEntry(Entry):
    """A Flower strategy and its requirements.

    `smallest_cohort` maps the options to the fewest updates that the strategy needs. `state` names the attributes
    that carry state between rounds (None, arrays, or a list, dict or `ArrayRecord` of arrays); None: unknown, so the
    strategy must have `state_dict` and `load_state_dict`.
    """

    makes: ClassVar = "flwr.serverapp.strategy:Strategy"
    linear: bool = False  # needs only the weighted mean of updates
    needs_initial_loss: bool = False  # clients report the loss of the received model
    smallest_cohort: Callable[[Any], int] = lambda options: 1
    state: tuple[str, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class AlgorithmEntry(Entry):
    """An algorithm: `reference` is a function `(**options) -> fedsim.algorithms.Algorithm`."""

    makes: ClassVar = "fedsim.algorithms:Algorithm"
    fields: bool = False  # sent beside the model; only strategies that need just means take them


class SamplingEntry(Entry):
    """A way to draw cohorts: `reference` is a function `(cohort, clients, coins, **options) -> CohortSampling`.

    This holds for a user's own; fedsim's samplings are made by the mechanism's plan.
    """

    makes: ClassVar = "fedsim.privacy.cohorts.sampling:CohortSampling"


@dataclass(frozen=True, kw_only=True)
class MechanismEntry(Entry):
    """A privacy mechanism: `reference` is a `fedsim.privacy.mechanism.Mechanism`.

    `budget` is its `fedsim.privacy.budget.Budget`, for `fedsim budget`; empty: it has none.
    """

    budget: str = ""


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Entry):
    """An optimizer: `reference` is a function `(parameters, lr, **arguments) -> fedsim.optimizers.Optimizer`.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """

    makes: ClassVar = "fedsim.optimizers:Optimizer"
    draws: bool = False  # draws random numbers in its steps


class ScheduleEntry(Entry):
    """A schedule: `reference` is a function `(round, rounds, **arguments) -> float`, the factor on the learning rate.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """

    makes: ClassVar = "numbers:Real"


class RoundScheduleEntry(Entry):
    """A schedule of rounds: `reference` is a function `(cohort, clients, coins, *, uniform, own, **options)`.

    It returns a `fedsim.server.schedules.Schedule`; `fedsim.server.sampling.build_schedule` documents the arguments.
    """

    makes: ClassVar = "fedsim.server.schedules:Schedule"


class TransformEntry(Entry):
    """A transform of clients' updates: `reference` is a function `(**options) -> fedsim.transforms.Transform`."""

    makes: ClassVar = "fedsim.transforms:Transform"


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def table(*entries: AnyEntry) -> dict[str, AnyEntry]:
    """Return entries by name; raises `ValueError` for a duplicate name."""
    by_name = {entry.name: entry for entry in entries}
    if len(by_name) != len(entries):
        raise ValueError("a name is in the catalogue twice")
    return by_name


def option_keys(entry: Entry) -> set[str]:
    """Return the TOML keys of an entry's options."""
    return {kebab(name) for name in entry.options.model_fields}


def finder(
    entries: dict[str, AnyEntry], own: str = '"module:callable"', **traits: Any
) -> Callable[[str], AnyEntry]:
    """Return a function that returns the entry of a name; it raises `Refused` with all names for an unknown one.

    `own` is how a user's own is named (empty: there is none), which has free options and these traits.
    """
    kind = type(next(iter(entries.values())))
    allowed = ", or ".join([", ".join(entries), *([own] if own else [])])

    def find(name: str) -> AnyEntry:
        if own and ":" in name:
            return kind(name, name, options=o.FreeOptions, **traits)
        if name not in entries:
            raise Refused(f"there is no such name; allowed: {allowed}")
        return entries[name]

    return find
