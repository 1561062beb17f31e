"""A comparison: the runs, their groups, and a frontier for each view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedsim.compare.frontier import Frontier, View, default_adversary, frontier, views_of
from fedsim.compare.groups import Group, check_one_task, differences, grouped, shortened, text_of
from fedsim.compare.runs import ComparedRun, find_runs
from fedsim.errors import Refused
from fedsim.results.run import Run
from fedsim.tasks import Column, Scoring, column_of

STAND_IN = (
    "Bytes of ideal secure aggregation are those that the real protocol would have sent, by its cost model."
)


@dataclass(frozen=True)
class Comparison:
    """Runs of one task, compared.

    Attributes:
        task: Data set and task of the scores.
        metric: The compared column: its final value.
        scoring: The metrics of their task.
        adversary: Adversary of the epsilons in tables and pictures; empty: no run adds noise.
        by: A setting that distinguishes lines, besides the mechanism; empty: none.
        groups: Groups of runs that differ only in their seed.
        left_out: Paths that were found and left out, with the reason.
    """

    task: str
    metric: str
    scoring: Scoring
    adversary: str
    by: str
    groups: tuple[Group, ...]
    left_out: tuple[tuple[Path, str], ...]

    @property
    def members(self) -> list[ComparedRun]:
        """All runs."""
        return [member for group in self.groups for member in group.members]

    @cached_property
    def column(self) -> Column:
        """The compared column."""
        return column_of(self.metric, self.scoring)

    @cached_property
    def views(self) -> list[View]:
        """The views with an epsilon of some group; the chosen adversary's first."""
        return sorted(views_of(self.groups), key=lambda view: view.adversary != self.adversary)

    @cached_property
    def frontiers(self) -> list[Frontier]:
        """The frontiers of the chosen adversary, one for each unit; without noised runs, one of baselines only."""
        return [frontier for frontier in self.all_frontiers if frontier.view.adversary == self.adversary]

    @cached_property
    def all_frontiers(self) -> list[Frontier]:
        """The frontiers of all views; without noised runs, one of baselines only."""
        return [self.frontier(view) for view in self.views or [View("", "")]]

    def frontier(self, view: View) -> Frontier:
        """Return the frontier of any view."""
        return frontier(self.groups, view, self.metric, self.series, self.scoring)

    @cached_property
    def series(self) -> dict[str, str]:
        """The line of each group, by its label."""
        return {group.label: self._series_of(group) for group in self.groups}

    def _series_of(self, group: Group) -> str:
        if self.by not in group.settings:
            return group.mechanism
        return f"{group.mechanism}, {shortened([self.by])[self.by]}={text_of(group.settings[self.by])}"

    @cached_property
    def differing(self) -> list[str]:
        """The settings in which counted or pruned groups differ."""
        return differences([group.settings for group in self.groups if group.counted or group.pruned])

    @property
    def notes(self) -> list[str]:
        """Notes for reading the numbers, one sentence each."""
        notes = []
        if repeated := sum(group.repeated for group in self.groups):
            notes.append(f"{repeated} completed runs repeat a seed of their group, and count once.")
        if names := [group.label for group in self.groups if not group.counted and not group.pruned]:
            notes.append(f"Without a completed run, and so without a mean: {'; '.join(names)}.")
        if pruned := sum(len(group.pruned) for group in self.groups):
            what = f"{pruned} run{' was' if pruned == 1 else 's were'}"
            cost = " No epsilon here covers the choice among settings." if self.adversary else ""
            notes.append(f"{what} pruned early by a sweep, and no part of any mean.{cost}")
        if any(member.is_ideal and member.counts for member in self.members):
            notes.append(STAND_IN)
        if len({member.commit for member in self.members}) > 1:
            notes.append("The runs are of several versions of fedsim.")
        if others := [key for key in self.differing if not key.startswith("privacy.")]:
            notes.append(f"Besides privacy, the groups differ in: {', '.join(others)}.")
        if variants := {group.mechanism for group in self.groups if group.variant and group.costs}:
            notes.append(
                "The best of several settings is chosen by the test set that it is scored on, so its score is somewhat "
                f"too good: {', '.join(sorted(variants))}."
            )
        return notes


def compare(
    runs: Iterable[str | Path],
    *,
    metric: str | None = None,
    adversary: str | None = None,
    by: str | None = None,
    task: str | None = None,
) -> Comparison:
    """Compare runs.

    Args:
        runs: Run directories, folders of them (a sweep's too), or globs.
        metric: A column of the runs' rows, by its final value; or `seconds` or `bytes`, of all rounds together; None:
            the headline metric of their task.
        adversary: Adversary of the shown epsilons; None: the one with epsilons for most groups.
        by: A setting, as `client.learning-rate`, that distinguishes lines; None: only the mechanism does.
        task: Of several tasks, the one to compare.

    Raises:
        Refused: There are no runs, or no completed ones; they are of several tasks; or no run has one of the names.
    """
    members, left_out = _read(find_runs(runs))
    if task is not None:
        _check("--task", task, [member.task for member in members])
        left_out += [(m.path, f"is of the task {m.task!r}") for m in members if m.task != task]
        members = [member for member in members if member.task == task]
    found = check_one_task(members)
    counted = [member for member in members if member.counts]
    if not counted:
        states = ", ".join(sorted({member.status for member in members}))
        raise Refused(f"RUNS: none of {len(members)} is completed; they are: {states}")
    scoring = counted[0].scoring
    metric = metric or scoring.headline.name
    _check("--metric", metric, [name for member in counted for name in member.finals])
    groups = grouped(members)
    if by is not None:
        _check("--by", by, [key for member in members for key in member.settings])
    default = default_adversary(groups)
    if adversary is not None:
        _check("--adversary", adversary, [view.adversary for view in views_of(groups)])
    return Comparison(found, metric, scoring, adversary or default, by or "", tuple(groups), tuple(left_out))


def _read(paths: Sequence[Path]) -> tuple[list[ComparedRun], list[tuple[Path, str]]]:
    """Read the runs of experiments; return also other paths, each with the reason."""
    members, left_out = [], []
    for path in paths:
        try:
            members.append(ComparedRun.of(Run(path)))
        except Refused as refused:
            left_out.append((path, str(refused)))
    if not members:
        raise Refused(left_out[0][1])
    return members, left_out


def _check(option: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a name that no run has."""
    names = sorted(set(allowed))
    if value not in names:
        raise Refused(f"{option} {value!r}: is in none of these runs; allowed: {', '.join(names) or 'none'}")
