"""Entries of the catalogue: what each kind of thing to choose has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from fedsim import options as o
from fedsim.errors import Refused
from fedsim.privacy.settings import kebab
from fedsim.references import load_reference


class Kind(StrEnum):
    """What one example is."""

    IMAGE = "image"  # (channels, height, width), uint8 or float32
    FEATURES = "features"  # (features,), float32
    TEXT = "text"  # (length,), integer tokens


class Targets(StrEnum):
    """What the targets of examples are."""

    LABELS = "labels"  # int64 from 0, one an input
    TOKENS = "tokens"  # of a text: the input itself, one position on
    VALUES = "values"  # float32, one or more an input


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing to choose: its name, where it is, what it is and what it takes."""

    name: str
    reference: str
    summary: str
    options: type[o.Options] = o.Options
    beside: frozenset[str] = frozenset()  # keys of the name's own table that only some of the names use

    def load(self) -> Any:
        """Import and return what the entry refers to."""
        return load_reference(self.reference)


@dataclass(frozen=True, kw_only=True)
class SourceEntry(Entry):
    """A source of data: `reference` is a function `(options, generator, targets) -> fedsim.data.raw.Raw`.

    `targets` says what the task wants; `task` maps the options to the task of an experiment that names none.
    """

    task: Callable[[Any], str] = lambda options: "classification"
    has_users: bool = False  # examples belong to users, so the natural partitions are possible
    by_clients: bool = False  # clients bring their own examples: there is nothing to deal, nor to simulate


@dataclass(frozen=True, kw_only=True)
class PartitionEntry(Entry):
    """A way to deal examples to clients: `reference` is a function of `fedsim.data.partitions`."""

    by_label: bool = False  # looks at the labels: not for next-character text and real-valued targets
    by_user: bool = False  # looks at the users: only for a source that has them


@dataclass(frozen=True, kw_only=True)
class TaskEntry(Entry):
    """A task: `reference` is a class `(data, options)` with what `fedsim.tasks.Task` says."""

    def targets(self) -> Targets:
        """Import the task, and return what it wants as targets; raises `Refused` where it doesn't say."""
        found = getattr(self.load(), "targets", None)
        if found not in set(Targets):
            raise Refused(
                f"task.name = {self.name!r}: has no attribute targets; allowed: {', '.join(Targets)}"
            )
        return Targets(found)


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """A model: `reference` is a function `(task, options) -> torch.nn.Module`."""

    draws: bool = False  # random numbers while it trains, as dropout does
    kinds: frozenset[Kind] = frozenset(Kind)


@dataclass(frozen=True, kw_only=True)
class StrategyEntry(Entry):
    """A Flower strategy, and what it asks of a round.

    `smallest_cohort` maps the options to the number of updates below which the strategy has no answer. `state`
    names the attributes that it carries from one round to the next (None, arrays, or a list, dict or
    `ArrayRecord` of arrays); None: it is not known, so the strategy must have `state_dict` and `load_state_dict`.
    """

    linear: bool = False  # needs only the weighted mean, so the fold serves it
    needs_initial_loss: bool = False  # clients report the loss of the model that they received
    smallest_cohort: Callable[[Any], int] = lambda options: 1
    state: tuple[str, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class AlgorithmEntry(Entry):
    """An algorithm: `reference` is a function `(**options) -> fedsim.algorithms.Algorithm`."""

    fields: bool = False  # travel beside the model, so that the strategy must need no more than means


@dataclass(frozen=True, kw_only=True)
class SamplingEntry(Entry):
    """A way to draw cohorts: `reference` is a function `(cohort, clients, coins, **options) -> CohortSampling`.

    So it is for a user's own; those of fedsim are made by the mechanism's plan, which knows their law.
    """


@dataclass(frozen=True, kw_only=True)
class MechanismEntry(Entry):
    """A privacy mechanism: `reference` is a `fedsim.privacy.mechanism.Mechanism`, which knows its settings.

    `budget` is its `fedsim.privacy.budget.Budget`, for `fedsim budget`; empty: it has none.
    """

    budget: str = ""


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Entry):
    """An optimizer: `reference` is a function `(parameters, lr, **arguments) -> fedsim.optimizers.Optimizer`.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """

    draws: bool = False  # random numbers while it steps


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry(Entry):
    """A schedule: `reference` is a function `(round, rounds, **arguments) -> float`, the factor on the learning rate.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """


@dataclass(frozen=True, kw_only=True)
class RoundScheduleEntry(Entry):
    """A schedule of rounds: `reference` is a function `(cohort, clients, coins, *, uniform, own, **options)`.

    It returns a `fedsim.server.schedules.Schedule`; `fedsim.server.schedules.build` says what the arguments are.
    """


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def table(*entries: AnyEntry) -> dict[str, AnyEntry]:
    """Return entries by name; raises `ValueError` where two have the same."""
    by_name = {entry.name: entry for entry in entries}
    if len(by_name) != len(entries):
        raise ValueError("a name is in the catalogue twice")
    return by_name


def option_keys(entry: Entry) -> set[str]:
    """Return the keys of an entry's options, as TOML has them."""
    return {kebab(name) for name in entry.options.model_fields}


def find(entries: dict[str, AnyEntry], name: str, and_own: str = "") -> AnyEntry:
    """Return the entry of a name; raises `Refused` where there is none, naming all, and then `and_own`."""
    if name not in entries:
        raise Refused(f"there is no such name; allowed: {', '.join(entries)}{and_own}")
    return entries[name]
