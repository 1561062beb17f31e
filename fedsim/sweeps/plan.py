"""The plan of a sweep: a list of named experiments, each checked before the sweep begins."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError

from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.overrides import seen_from_here
from fedsim.privacy.settings import Section, kebab, one_line
from fedsim.references import see_folders
from fedsim.results.manifest import experiment_sha256
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.points import Grid, Search, grid_of, points_of, value_of
from fedsim.sweeps.pruning import Pruning, brackets_of, with_metric

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
DATA_PATH = "data.path"
LONGEST = 120  # characters of a run's name
Table = TypeVar("Table", bound=Section)


@dataclass(frozen=True)
class Arm:
    """One experiment of a sweep, with its varied settings.

    Attributes:
        name: Prefix of its runs' names.
        toml: The experiment, as in its file.
        folder: Base folder of its relative paths, absolute.
    """

    name: str
    toml: str
    folder: str
    overrides: tuple[str, ...] = ()
    grid: Grid = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, name: str = "", overrides: Iterable[str] = (), grid: Grid | None = None) -> Arm:
        """Read an experiment file; `name` defaults to the experiment's."""
        experiment = Experiment.load(path)
        text, folder = path.read_text(encoding="utf-8"), str(path.absolute().parent)
        return cls(name or experiment.name, text, folder, tuple(overrides), dict(grid or {}))

    def with_more(self, overrides: Iterable[str], grid: Grid) -> Arm:
        """Return the arm with more overrides and a wider grid; for keys in both, the new ones win.

        A relative `data.path` starts at the current folder.
        """
        overrides = tuple(overrides)
        new = tuple(seen_from_here(overrides, self.toml))
        grid = {
            key: tuple(self._seen_from_here(overrides, value) for value in values)
            if key == DATA_PATH
            else values
            for key, values in grid.items()
        }
        said = {_key(text) for text in new}
        kept = tuple(text for text in self.overrides if _key(text) not in said | grid.keys())
        own = {key: values for key, values in self.grid.items() if key not in said}
        return replace(self, overrides=(*kept, *new), grid={**own, **grid})

    def _seen_from_here(self, overrides: tuple[str, ...], path: str) -> str:
        *_, override = seen_from_here([*overrides, f"{DATA_PATH}={path}"], self.toml)
        return override.partition("=")[2]

    def experiment(self, overrides: Iterable[str]) -> Experiment:
        """Return the experiment with more overrides; raises `Refused` if it is invalid."""
        every = [*self.overrides, *overrides]
        try:
            found = Experiment.from_toml(self.toml, every, folder=self.folder, origin=self.name)
            found.check_importable()  # each run has a process of its own
            return found
        except Refused as refused:
            raise Refused(f"arm {self.name!r}: {refused}") from None


def _key(override: str) -> str:
    return kebab(override.partition("=")[0].strip())


@dataclass(frozen=True)
class Plan:
    """A sweep's arms, and all runs that follow from them.

    Attributes:
        seeds: Runs of each point, with the experiment's seed and those after it.
        arms: One or more, with distinct names.
        runs: All of them, in the order of arms, points, seeds.
        search: Random search in all arms, or None.
    """

    name: str
    seeds: int
    arms: tuple[Arm, ...]
    runs: tuple[PlannedRun, ...]
    search: Search | None = None
    pruning: Pruning | None = None

    @classmethod
    def of(
        cls,
        name: str,
        seeds: int,
        arms: Sequence[Arm],
        search: Search | None = None,
        pruning: Pruning | None = None,
    ) -> Self:
        """Plan the runs.

        Raises:
            Refused: Two arms share a name, seeds are below one, or an experiment or the pruning is invalid.
        """
        if not re.fullmatch(NAME, name):
            raise Refused(f"sweep.name = {name!r}: must be letters, digits, dots, hyphens, underscores")
        if seeds < 1:
            raise Refused(f"seeds = {seeds}: must be at least 1")
        if not arms:
            raise Refused("sweep.arms: is empty; one arm or more are needed")
        counts = Counter(arm.name for arm in arms)
        if twice := [arm for arm, count in counts.items() if count > 1]:
            raise Refused(f"arm {twice[0]!r}: {counts[twice[0]]} have this name; each needs its own")
        drawn = [{}] if search is None else search.points()
        runs = _with_names_of_their_own([run for arm in arms for run in _runs_of(arm, seeds, drawn)])
        if pruning is not None:
            see_folders(dict.fromkeys(arm.folder for arm in arms))  # a user's own task defines its metrics
            pruning = with_metric(pruning, runs)
            brackets_of(runs, pruning)
        return cls(name, seeds, tuple(arms), tuple(runs), search, pruning)


def _runs_of(arm: Arm, seeds: int, drawn: Sequence[Mapping[str, str]]) -> list[PlannedRun]:
    """Return an arm's runs, every experiment checked; each grid point is combined with each drawn point."""
    if both := arm.grid.keys() & drawn[0].keys():
        raise Refused(f"--range {min(both)}: can't stand beside a grid of the same key; allowed: one of them")
    if seeds > 1 and "seed" in arm.grid:
        said = f"seeds = {seeds} can't stand beside a grid of seed; allowed: one of them"
        raise Refused(f"arm {arm.name!r}: {said}")
    runs = []
    without_seed = replace(arm, overrides=tuple(text for text in arm.overrides if _key(text) != "seed"))
    for texts in ({**point, **sample} for point in points_of(arm.grid) for sample in drawn):
        changes = [f"{key}={text}" for key, text in texts.items()]
        first = arm.experiment(changes)
        point = {key: value_of(key, text) for key, text in texts.items()}
        for seed in range(first.seed, first.seed + seeds):
            experiment = first
            if seed != first.seed:
                experiment = without_seed.experiment([*changes, f"seed={seed}"])
            sha256 = experiment_sha256(experiment.to_toml())
            runs.append(PlannedRun(_name(arm.name, point, seed), arm.name, point, seed, experiment, sha256))
    return runs


def _name(arm: str, point: Mapping[str, Any], seed: int) -> str:
    """Return a run's name, valid for a folder.

    >>> _name("dp", {"privacy.dp-fedavg.epsilon": 2.0, "seed": 7}, 7)
    'dp-epsilon-2.0-s7'
    """
    last = {key: key.rpartition(".")[2] for key in point}
    counts = Counter(last.values())
    short = {key: last[key] if counts[last[key]] == 1 else key for key in point if key != "seed"}
    parts = [arm, *(f"{short[key]}-{point[key]}" for key in short)]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))
    return f"{plain[:LONGEST]}-s{seed}"


def _with_names_of_their_own(runs: list[PlannedRun]) -> list[PlannedRun]:
    """Number runs with equal names."""
    seen: Counter[str] = Counter()
    named = []
    for run in runs:
        seen[run.name] += 1
        named.append(run if seen[run.name] == 1 else replace(run, name=f"{run.name}-{seen[run.name]}"))
    return named


# --- sweep files -----------------------------------------------------------------------------------------


class _ArmTable(Section):
    """`[[sweep.arms]]`."""

    name: str = Field(pattern=NAME, max_length=100)
    config: str | None = None
    set: list[str] = Field(default_factory=list)
    grid: dict[str, Any] = Field(default_factory=dict)


class _PruneTable(Section):
    """`[sweep.prune]`."""

    factor: int = Field(default=3, ge=2)
    after: int | None = Field(default=None, ge=1)
    metric: str | None = None
    within: tuple[str, ...] = ()


class _SweepTable(Section):
    """`[sweep]`."""

    name: str | None = Field(default=None, pattern=NAME, max_length=100)
    seeds: int = Field(default=1, ge=1)
    config: str | None = None
    set: list[str] = Field(default_factory=list)
    grid: dict[str, Any] = Field(default_factory=dict)
    prune: _PruneTable | None = None
    arms: list[Any] = Field(default_factory=list)


def is_sweep_file(path: Path) -> bool:
    """Return whether a TOML file has a table `[sweep]`; False for unreadable files."""
    try:
        return "sweep" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def read_sweep_file(path: Path) -> tuple[str, int, Pruning | None, list[Arm]]:
    """Return name, seeds, pruning and arms of a sweep file.

    Raises:
        Refused: A key or value is not allowed, or an arm's file is invalid.
    """
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    if others := sorted(tree.keys() - {"sweep"}):
        raise Refused(f"sweep file {str(path)!r}: {others[0]} is no key here; allowed: sweep")
    table = _validated(_SweepTable, tree["sweep"], "sweep")
    common = grid_of(table.grid, "sweep.grid")
    tables = [
        _validated(_ArmTable, arm, f"sweep.arms[{place}]") for place, arm in enumerate(table.arms, start=1)
    ]
    arms = []
    for arm in tables:
        config = arm.config or table.config
        if config is None:
            raise Refused(f"arm {arm.name!r}: has no config; it or [sweep] must name an experiment file")
        varied = Arm.read(path.parent / config, arm.name, table.set, common)
        arms.append(varied.with_more(arm.set, grid_of(arm.grid, f"arm {arm.name!r}: grid")))
    pruning = None if table.prune is None else Pruning(**table.prune.model_dump())
    return table.name or path.stem, table.seeds, pruning, arms


def _validated(model: type[Table], tree: Any, origin: str) -> Table:
    if not isinstance(tree, dict):
        raise Refused(f"{origin}: must be a table")
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise Refused(f"{origin}.{one_line(error, model)}") from None
