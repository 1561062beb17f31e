"""Runs as data frames: one row a run, a round, or a privacy event (polars; `.to_pandas()` is polars' own)."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import Refused, reason
from fedsim.mechanisms import event_or_raw
from fedsim.results.disclosure import ADVERSARIES, MANIFEST
from fedsim.results.files import check_types, read_object, rows_of, unless_damaged
from fedsim.results.run import NUMBERS, Run
from fedsim.tables import dotted
from fedsim.tasks.metric import Scoring

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

Places = str | Path | Iterable[str | Path]
SWEEP = "sweep.json"
RUNS = "runs"
# Columns for all runs, null if a run lacks them.
PLANNED = ("sweep", "arm", "point", "seed")
SAID = ("path", "kind", "name", "status", "error", *PLANNED, "rounds-done", "wall-seconds")
PRIVACY = ("mechanism", "unit", "relation", "delta", "noise-multiplier", "sampling-rate", "dp-steps")
EPSILONS = tuple(f"epsilon-{name}" for name in ADVERSARIES)
TYPES = {  # of a run's values in `sweep.json`
    **dict.fromkeys(("name", "arm", "experiment-sha256", "state", "reason"), (str,)),
    "point": (dict, type(None)),
    "seed": (int,),
}
OF_ONE_ROUND = ("round", "seconds", "failure-reasons")  # columns that don't describe a whole run
INTEGERS = ("seed", "rounds-done", "round", "dp-steps")
FLOATS = ("wall-seconds", "delta", "noise-multiplier", "sampling-rate", *EPSILONS)


def load_runs(places: Places = "runs/*", *, long: bool = False) -> pl.DataFrame:
    """Return one row a run, or, if `long`, one row a round.

    Wide: `path`, `kind`, `name`, `status` and `error`; `sweep`, `arm` and `point` for a sweep's run; `seed`,
    `rounds-done` and `wall-seconds`; every metric's last value; `mechanism`, `unit`, `relation`, `delta`,
    `noise-multiplier`, `sampling-rate`, `dp-steps`; epsilon so far, one column for each adversary (`epsilon-server`,
    `epsilon-known-cohort`, `epsilon-released-models`); every setting, under its dotted key. Missing values are null.
    Unfinished runs have a row too; see `status` (`Run.status`; for a sweep's run that has not begun: `waiting` or
    `failed`).

    Long: `path`, `name`, `status`, `sweep`, `arm`, `point`, `seed`, and a round's row of `metrics.jsonl`.

    Args:
        places: Run directories, sweep directories (all their runs), or globs; other paths found by a glob are
            ignored. A Flower app's run has what fedsim knows.
        long: One row a round.

    Damaged runs are left out, each with a warning.

    Raises:
        Refused: A path that is no glob is neither a run nor a sweep directory, or all runs are damaged.
    """
    every, rows = _read(places, _rounds_of if long else _row_of)
    scores = _scores_of(every)
    if long:
        said = ("path", "name", "status", *PLANNED, "round")
        return _frame(rows, (*said, *scores), scores)
    return _frame(rows, (*SAID, *scores, *PRIVACY, *EPSILONS), scores)


def load_ledger(places: Places = "runs/*") -> pl.DataFrame:
    """Return one row a privacy event: the run's `path`, `name`, `sweep`, `arm`, `point`, `seed`, and its fields.

    An event with parts has their joint `noise-multiplier`. Lines of a mechanism that can't be loaded are included
    raw. Arguments and errors as `load_runs`.
    """
    _, rows = _read(places, _events_of)
    return _frame(rows, ("path", "name", *PLANNED, "round", "noise-multiplier"))


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return the `sweep.json` of a folder; raises `Refused` if it is damaged or can't be read."""
    file = folder / SWEEP
    try:
        tree = read_object(file)
    except OSError as error:
        raise Refused(f"{str(file)!r}: {error.strerror}") from None
    with unless_damaged(file):
        check_types({"name": tree["name"], "runs": tree["runs"]}, {"name": (str,), "runs": (list,)})
        for run in tree["runs"]:
            check_types(run, TYPES)
            if Path(run["name"]).name != run["name"]:
                raise ValueError(f"a run can't have the name {run['name']!r}")
    return tree


def _read(
    places: Places, rows_of_one: Callable[[_Found], list[dict[str, Any]]]
) -> tuple[list[_Found], list[dict[str, Any]]]:
    """Return the runs of some places that aren't damaged, and their rows; as `load_runs` says."""
    every: list[_Found] = []
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for found in _found(places):
        try:
            with unless_damaged(found.path):
                found.check()
                rows += rows_of_one(found)
                every.append(found)
        except (Refused, OSError) as error:
            left_out.append(str(error))
            log.warning("left out: %s", error)
    if left_out and not every:
        raise Refused(left_out[0])
    return every, rows


@dataclass(frozen=True)
class _Found:
    """A run directory, or the path of a sweep's run that has not begun, with the sweep's information.

    `damage` is why there is neither, but a damaged sweep.
    """

    path: Path
    sweep: str | None = None
    planned: Mapping[str, Any] = field(default_factory=dict)
    damage: str = ""

    def check(self) -> None:
        """Raise `Refused` for a damaged sweep, or a run whose metrics aren't known."""
        if self.damage:
            raise Refused(self.damage)
        if (run := self.run) is not None:
            _ = run.scoring

    @property
    def run(self) -> Run | None:
        return Run(self.path) if (self.path / MANIFEST).is_file() else None


def _found(places: Places) -> Iterator[_Found]:
    """Yield all runs of some places, each once."""
    seen = set()
    for place in [places] if isinstance(places, str | Path) else places:
        for found in _at(str(place)):
            if found.path not in seen:
                seen.add(found.path)
                yield found


def _at(place: str) -> Iterator[_Found]:
    """Yield the runs of one path or glob."""
    paths = [Path(path) for path in sorted(glob.glob(place))]  # noqa: PTH207 (an absolute pattern is fine here)
    if not glob.has_magic(place) and not any(map(_is_one, paths)):
        raise Refused(f"runs {place!r}: is neither a run directory (manifest.json) nor a sweep's ({SWEEP})")
    for path in filter(_is_one, paths):
        if not (path / SWEEP).is_file():
            yield _in_its_sweep(path)
            continue
        try:
            tree = read_sweep(path)
        except Refused as refused:
            yield _Found(path, damage=str(refused))
            continue
        for run in tree["runs"]:
            yield _Found(path / RUNS / run["name"], tree["name"], run)


def _is_one(path: Path) -> bool:
    return (path / MANIFEST).is_file() or (path / SWEEP).is_file()


def _in_its_sweep(path: Path) -> _Found:
    """Return a run with the information of its sweep, if there is one."""
    file = path.absolute().parent.parent / SWEEP
    if path.absolute().parent.name == RUNS and file.is_file():
        try:
            tree = read_sweep(file.parent)
        except Refused as refused:
            log.warning("%s; its runs are read without it", refused)
            return _Found(path)
        for run in tree["runs"]:
            if run["name"] == path.name:
                return _Found(path, tree["name"], run)
    return _Found(path)


def _scores_of(every: Iterable[_Found]) -> tuple[str, ...]:
    """Return the runs' columns of losses and metrics; if none has begun, those of classification."""
    scorings = [run.scoring for found in every if (run := found.run)] or [Scoring()]
    metrics = (metric.name for scoring in scorings for metric in scoring.metrics)
    return (*dict.fromkeys(metrics), "loss", "train-loss")


def _said(found: _Found) -> dict[str, Any]:
    """Return a run's identifying columns."""
    planned, run = found.planned, found.run
    manifest = {} if run is None else run.manifest
    point = planned.get("point")
    return {
        "path": str(found.path),
        "name": manifest.get("name"),
        "status": planned.get("state") if run is None else run.status,
        "sweep": found.sweep,
        "arm": planned.get("arm"),
        "point": None if point is None else " ".join(f"{key}={value}" for key, value in point.items()),
        "seed": manifest.get("seed", planned.get("seed")),
    }


def _row_of(found: _Found) -> list[dict[str, Any]]:
    """Return a run's row of the wide frame, as the only one."""
    row = _said(found) | {"kind": "experiment", "error": found.planned.get("reason")}
    if (run := found.run) is None:
        return [row]
    manifest, rounds = run.manifest, run.rows
    row |= {
        "kind": run.kind,
        "error": manifest.get("error", row["error"]),
        "rounds-done": len(rounds) if run.kind == "experiment" else None,
        "wall-seconds": manifest.get("wall-seconds"),
    }
    if run.kind != "experiment":
        return [row | dict(manifest.get("final", {}))]
    for round_ in rounds:
        row |= {name: value for name, value in round_.items() if name not in OF_ONE_ROUND}
    mechanisms = run.experiment.privacy.mechanisms
    return [settings_of(run) | row | {"mechanism": mechanisms[0] if mechanisms else "none"}]


def settings_of(run: Run) -> dict[str, Any]:
    """Return a run's settings by dotted key, without unset tables of mechanisms, a task, an algorithm or transforms."""
    flat = dotted(run.experiment.model_dump(by_alias=True, mode="json"))
    return {
        key: value
        for key, value in flat.items()
        if value is not None or not key.startswith(("privacy.", "task", "algorithm", "transforms"))
    }


def _rounds_of(found: _Found) -> list[dict[str, Any]]:
    """Return a run's rows of the long frame."""
    said, run = _said(found), found.run
    return [said | row for row in run.rows] if run else []


def _events_of(found: _Found) -> list[dict[str, Any]]:
    """Return the rows of a run's events."""
    if (run := found.run) is None or not run.ledger.is_file():
        return []
    said, own, rows = _said(found), run.manifest.get("mechanism", ""), []
    for line in rows_of(run.ledger):
        noise = getattr(event_or_raw(line, own), "noise_multiplier", None)
        check_types({"noise-multiplier": noise, **line}, {"noise-multiplier": NUMBERS, "round": (int,)})
        rows.append({**said, **line, "noise-multiplier": noise})
    return rows


def _frame(rows: list[dict[str, Any]], first: Iterable[str], floats: Iterable[str] = ()) -> pl.DataFrame:
    """Return rows as a frame that always has the columns `first`, in front; `floats` are numeric columns."""
    import polars as pl

    names = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    columns = []
    for name in names:
        try:
            columns.append(pl.Series(name, [row.get(name) for row in rows], strict=False))
        except (pl.exceptions.PolarsError, ValueError, TypeError, OverflowError) as error:
            raise Refused(f"column {name!r}: its values can't stand in one: {reason(error)[:200]}") from None
    frame = pl.DataFrame(columns)
    empty = [name for name in first if frame[name].dtype == pl.Null]
    types: dict[str, pl.DataType] = dict.fromkeys(empty, pl.String())
    types |= {name: pl.Int64() for name in INTEGERS if name in names}
    types |= {name: pl.Float64() for name in (*FLOATS, *floats) if name in names}
    return frame.with_columns(pl.col(name).cast(kind) for name, kind in types.items())
