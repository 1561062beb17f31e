"""Groups of runs that differ only in their seed, and the settings in which groups differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from fedsim.compare.costs import Cost
from fedsim.compare.runs import ComparedRun, key_of
from fedsim.compare.statistics import Summary, summarise
from fedsim.errors import Refused

Item = TypeVar("Item")
Key = TypeVar("Key")
PRUNED = "pruned"
BUDGET = re.compile(r"privacy\.[a-z-]+\.(epsilon|noise-multiplier)")  # varied along a frontier


@dataclass(frozen=True)
class Curve:
    """A column over rounds and a group's seeds; all lists have one length.

    Attributes:
        rounds: Rounds in which every counted run has the column, in order.
        mean: Over seeds.
        low: The lowest seed.
        high: The highest seed.
    """

    rounds: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Group:
    """Runs of the same settings.

    Attributes:
        members: All of them, in the order of their seeds.
        differing: Keys in which counted or pruned groups of the same mechanism differ, except the budget, with short
            names.
    """

    members: tuple[ComparedRun, ...]
    differing: Mapping[str, str]

    @property
    def settings(self) -> Mapping[str, Any]:
        """All values of the experiment."""
        return self.members[0].settings

    @property
    def mechanism(self) -> str:
        """What protects the runs."""
        return self.members[0].mechanism

    @cached_property
    def counted(self) -> Mapping[int, ComparedRun]:
        """Runs that enter means, by seed. Of several with the same seed, and so the same bits, the first."""
        counted: dict[int, ComparedRun] = {}
        for member in self.members:
            if member.counts:
                counted.setdefault(member.seed, member)
        return counted

    @property
    def repeated(self) -> int:
        """Completed runs left out because another has their seed."""
        return sum(member.counts for member in self.members) - len(self.counted)

    @property
    def pruned(self) -> list[ComparedRun]:
        """Runs that a sweep stopped early."""
        return [member for member in self.members if member.status == PRUNED]

    @property
    def pending(self) -> list[ComparedRun]:
        """Other runs that are not completed."""
        return [member for member in self.members if not member.counts and member.status != PRUNED]

    @property
    def variant(self) -> str:
        """Its differences from other groups of the same mechanism and budget, as text; may be empty."""
        return ", ".join(
            f"{short}={text_of(self.settings.get(key))}" for key, short in self.differing.items()
        )

    @property
    def budgets(self) -> list[tuple[str, float]]:
        """The mechanisms' budgets, as `epsilon` or `noise-multiplier`; empty: no noise."""
        return [
            (key.rpartition(".")[2], value) for key, value in self.settings.items() if BUDGET.fullmatch(key)
        ]

    @property
    def budget(self) -> str:
        """The same in words, as `epsilon=2`."""
        return ", ".join(f"{name}={text_of(value)}" for name, value in self.budgets)

    @property
    def label(self) -> str:
        """The group's unique name."""
        return ", ".join(part for part in (self.mechanism, self.budget, self.variant) if part)

    def values(self, metric: str) -> dict[int, float]:
        """Return a metric's final value by seed, of the counted runs that have it."""
        return {
            seed: member.finals[metric] for seed, member in self.counted.items() if metric in member.finals
        }

    def summary(self, metric: str) -> Summary | None:
        """Return a metric's mean over seeds, with its spread; None: no counted run has it."""
        values = self.values(metric)
        return summarise(list(values.values())) if values else None

    def curve(self, column: str) -> Curve:
        """Return a column's curve; it is empty if no round has the column in every run."""
        by_round: dict[int, list[float]] = {}
        for member in self.counted.values():
            for row in member.rows:
                if row.get(column) is not None:  # null: not finite
                    by_round.setdefault(row["round"], []).append(float(row[column]))
        whole = {r: values for r, values in sorted(by_round.items()) if len(values) == len(self.counted)}
        return Curve(
            rounds=list(whole),
            mean=[sum(values) / len(values) for values in whole.values()],
            low=[min(values) for values in whole.values()],
            high=[max(values) for values in whole.values()],
        )

    def cost(self, adversary: str) -> Cost | None:
        """Return the largest cost of counted runs against an adversary (data may differ by seed)."""
        costs = [m.costs[adversary] for m in self.counted.values() if adversary in m.costs]
        missing = next((cost for cost in costs if cost.epsilon is None), None)
        return missing or max(costs, key=lambda cost: cost.epsilon or 0.0, default=None)

    @property
    def costs(self) -> dict[str, Cost]:
        """The costs by adversary."""
        names = dict.fromkeys(name for member in self.counted.values() for name in member.costs)
        return {name: cost for name in names if (cost := self.cost(name)) is not None}


def grouped(members: Iterable[ComparedRun]) -> list[Group]:
    """Return the groups: those without noise first, then by mechanism in the order of their first runs, and budget."""
    by_settings = by_key(members, lambda member: key_of(member.settings)).values()
    sets = [sorted(runs, key=lambda member: (member.seed, str(member.path))) for runs in by_settings]
    groups = []
    for side_by_side in by_key(sets, lambda runs: runs[0].mechanism).values():
        # Only a completed or pruned run says something about its setting.
        tried = [runs for runs in side_by_side if any(run.counts or run.status == PRUNED for run in runs)]
        of_all, of_tried = _names_of_differences(side_by_side), _names_of_differences(tried)
        made = [Group(tuple(runs), of_tried if runs in tried else of_all) for runs in side_by_side]
        groups += sorted(made, key=lambda group: group.budgets)
    return sorted(groups, key=lambda group: bool(group.budgets))


def by_key(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items by their keys, in the order of the first of each."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _names_of_differences(side_by_side: Sequence[Sequence[ComparedRun]]) -> dict[str, str]:
    """Return the keys in which groups differ, except their budgets, with short names."""
    keys = differences([of_group[0].settings for of_group in side_by_side])
    return shortened([key for key in keys if not BUDGET.fullmatch(key)])


def differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys with different values, in the order of the experiment."""
    keys = dict.fromkeys(key for tree in settings for key in tree)
    return [key for key in keys if len({key_of({key: tree.get(key)}) for tree in settings}) > 1]


def shortened(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest unique suffix of each dotted key; `name` alone is none.

    >>> shortened(["client.epochs", "privacy.dp-sgd.clip", "privacy.dp-fedavg.clip"])
    {'client.epochs': 'epochs', 'privacy.dp-sgd.clip': 'dp-sgd.clip', 'privacy.dp-fedavg.clip': 'dp-fedavg.clip'}
    >>> shortened(["algorithm.name"])
    {'algorithm.name': 'algorithm.name'}
    """
    short = {}
    for key in keys:
        parts = key.split(".")
        least = 2 if parts[-1] == "name" else 1
        ends = (".".join(parts[-length:]) for length in range(least, len(parts) + 1))
        short[key] = next(end for end in ends if sum(f".{k}".endswith(f".{end}") for k in keys) == 1)
    return short


def check_one_task(members: Sequence[ComparedRun]) -> str:
    """Return the task of all runs; raises `Refused` for several tasks, with different test sets."""
    tasks = by_key(members, lambda member: member.task)
    if len(tasks) == 1:
        return next(iter(tasks))
    said = "; ".join(f"{task!r} ({len(runs)}, as {runs[0].path})" for task, runs in tasks.items())
    raise Refused(
        f"RUNS: are of {len(tasks)} tasks, with scores that can't be compared: {said}; choose one by --task"
    )


def text_of(value: Any) -> str:
    """Format a setting's value; different values give different texts."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "unset" if value is None else str(value)
