"""The directory of a sweep: its plan, the state of each run, and the runs themselves.

`sweep.json` has the plan (name, seeds, arms) and each run with its state, `runs/` a run directory for each run that
has begun, and `sweep.log` the workers' output.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedsim.errors import Refused
from fedsim.results.files import remove_drafts, unless_damaged, write_whole
from fedsim.results.frames import RUNS, SWEEP, read_sweep
from fedsim.results.lock import Lock, is_held
from fedsim.results.run import Run
from fedsim.sweeps.plan import Arm, Plan
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.points import Search
from fedsim.sweeps.pruning import Pruning

if TYPE_CHECKING:
    import polars as pl

LOG = "sweep.log"
PATIENCE = 10.0  # seconds for the workers of a killed sweep to end


class State(StrEnum):
    """State of a planned run."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # or killed: resumes after its last whole round
    PAUSED = "paused"  # at a rung, until the others of its bracket reach it
    PRUNED = "pruned"
    COMPLETED = "completed"
    FAILED = "failed"


class Sweep:
    """A sweep directory, finished or running."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / SWEEP).is_file():
            raise Refused(f"sweep {str(path)!r}: has no {SWEEP}; a sweep directory is needed")

    def __repr__(self) -> str:
        counts = Counter(self.states.values())
        said = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        return f"Sweep({str(self.path)!r}, {said})"

    @property
    def tree(self) -> dict[str, Any]:
        """The current contents of `sweep.json`; raises `Refused` if they are damaged."""
        return read_sweep(self.path)

    @property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.tree["name"])

    @property
    def states(self) -> dict[str, State]:
        """The state of each run, by name."""
        return {name: state for name, (state, _) in self._found.items()}

    @property
    def failures(self) -> dict[str, str]:
        """Reasons of failed runs, by name."""
        return self._reasons(State.FAILED)

    @property
    def pruned(self) -> dict[str, str]:
        """Reasons of pruned runs, with the round, by name."""
        return self._reasons(State.PRUNED)

    @property
    def _found(self) -> dict[str, tuple[State, str]]:
        return {run["name"]: _state(self.path, run) for run in self.tree["runs"]}

    def _reasons(self, wanted: State) -> dict[str, str]:
        return {name: reason for name, (state, reason) in self._found.items() if state is wanted}

    @property
    def runs(self) -> list[Run]:
        """The runs that have begun."""
        paths = [self.path / RUNS / run["name"] for run in self.tree["runs"]]
        return [Run(path) for path in paths if (path / "manifest.json").is_file()]

    @property
    def frame(self) -> pl.DataFrame:
        """One row a run that has begun: see `fedsim.load_runs`."""
        from fedsim.results import load_runs

        return load_runs(self.path)


class SweepDirectory:
    """A sweep directory, written by this process only; a context manager.

    Attributes:
        states: The state of each run, by name.
    """

    def __init__(self, path: Path, plan: Plan, lock: Lock) -> None:
        self.path = path
        self.plan = plan
        self._lock = lock
        remove_drafts(path)
        stored = {run["name"]: run for run in Sweep(path).tree["runs"]} if (path / SWEEP).exists() else {}
        found = {run.name: _state(path, stored.get(run.name, {"name": run.name})) for run in plan.runs}
        self.states = {name: state for name, (state, _) in found.items()}
        self._reasons = {name: reason for name, (_, reason) in found.items() if reason}

    @classmethod
    def create(cls, path: Path, plan: Plan) -> SweepDirectory:
        """Make the directory of a sweep, or open an existing one with the same plan.

        Raises:
            Refused: There is something else at the path, it can't be written to, or another process does.
        """
        if (path / SWEEP).is_file():
            return cls.open(path, plan)
        if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
            raise Refused(f"--out {str(path)!r}: exists and is no sweep; a new directory is needed")
        try:
            (path / RUNS).mkdir(parents=True, exist_ok=True)
            lock = Lock(path)
        except OSError as error:
            raise Refused(f"--out {str(path)!r}: {error.strerror}") from None
        directory = cls(path, plan, lock)
        directory._write()
        return directory

    @classmethod
    def open(cls, path: Path, plan: Plan | None = None) -> SweepDirectory:
        """Open a sweep to resume it.

        Raises:
            Refused: There is none, its plan is not `plan` (None: any), or another process writes it.
        """
        tree = Sweep(path).tree
        with unless_damaged(path / SWEEP):
            stored = plan_of(tree)
            then = {run["name"]: run["experiment-sha256"] for run in tree["runs"]}
        if plan is not None and (
            {run.name: run.sha256 for run in plan.runs} != then or plan.pruning != stored.pruning
        ):
            needed = "a new directory, or the same plan, is needed"
            raise Refused(f"--out {str(path)!r}: holds another sweep; {needed}")
        for run in stored.runs:
            if then.get(run.name) != run.sha256:
                said = f"{run.name} would be another experiment with this version of fedsim"
                raise Refused(f"sweep {str(path)!r}: {said}")
        try:
            lock = Lock(path)
        except Refused as refused:
            raise Refused(str(refused).replace("run ", "sweep ", 1)) from None
        except OSError as error:
            raise Refused(f"sweep {str(path)!r}: {error.strerror}") from None
        try:
            _wait_for_workers(path, stored)
            return cls(path, stored, lock)
        except BaseException:
            lock.release()
            raise

    def todo(self, *, retry_failed: bool = False) -> list[PlannedRun]:
        """Return the remaining runs, the longest first; with `retry_failed` also failed ones."""
        over = {State.COMPLETED, State.PRUNED} | (set() if retry_failed else {State.FAILED})
        left = [run for run in self.plan.runs if self.states[run.name] not in over]
        return sorted(left, key=lambda run: -run.work)

    def run_path(self, name: str) -> Path:
        """Return the path of a run's directory."""
        return self.path / RUNS / name

    def note(self, name: str, state: State, reason: str = "") -> None:
        """Write a run's state."""
        self.states[name] = state
        self._reasons.pop(name, None)
        if reason:
            self._reasons[name] = reason
        self._write()

    def prune(self, name: str, round_: int, reason: str) -> None:
        """Record, also in its manifest, that a paused run is pruned."""
        path = self.run_path(name)
        lock = Lock(path)
        try:
            manifest = Run(path).manifest
            manifest |= {"status": State.PRUNED.value, "error": reason, "pruned-after": round_}
            write_whole(path / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
        finally:
            lock.release()
        self.note(name, State.PRUNED, reason)

    def _write(self) -> None:
        plan = self.plan
        tree = {
            "name": plan.name,
            "seeds": plan.seeds,
            "search": None if plan.search is None else asdict(plan.search),
            "prune": None if plan.pruning is None else asdict(plan.pruning),
            "arms": [
                {
                    "name": arm.name,
                    "folder": arm.folder,
                    "set": arm.overrides,
                    "grid": arm.grid,
                    "experiment": arm.toml,
                }
                for arm in plan.arms
            ],
            "runs": [self._run_json(run) for run in plan.runs],
        }
        write_whole(self.path / SWEEP, json.dumps(tree, indent=1, ensure_ascii=False).encode() + b"\n")

    def _run_json(self, run: PlannedRun) -> dict[str, Any]:
        reason = self._reasons.get(run.name)
        return {
            "name": run.name,
            "arm": run.arm,
            "point": run.point,
            "seed": run.seed,
            "experiment-sha256": run.sha256,
            "state": self.states[run.name].value,
            **({"reason": reason} if reason else {}),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def plan_of(tree: Mapping[str, Any]) -> Plan:
    """Return the plan in a `sweep.json`."""
    arms = [
        Arm(
            arm["name"],
            arm["experiment"],
            arm["folder"],
            tuple(arm["set"]),
            {key: tuple(values) for key, values in arm["grid"].items()},
        )
        for arm in tree["arms"]
    ]
    search = Search(**tree["search"]) if tree.get("search") else None
    pruning = Pruning(**tree["prune"]) if tree.get("prune") else None
    return Plan.of(tree["name"], tree["seeds"], arms, search, pruning)


def _state(path: Path, stored: Mapping[str, Any]) -> tuple[State, str]:
    """Return a run's state, and why it failed, from its directory and the sweep's notes.

    A run that could not begin, or that lost its worker, has failed although no manifest says so, unless
    `fedsim resume` completed it since.
    """
    with unless_damaged(path / SWEEP):
        noted, reason = State(stored.get("state", State.WAITING)), str(stored.get("reason", ""))
    directory = path / RUNS / stored["name"]
    status = Run(directory).status if (directory / "manifest.json").is_file() else ""
    if status == "completed":
        return State.COMPLETED, ""
    if status == "pruned":
        return State.PRUNED, str(Run(directory).manifest.get("error", ""))
    if noted is State.FAILED:
        return State.FAILED, reason
    if status == "failed":
        return State.FAILED, str(Run(directory).manifest.get("error", ""))
    if status == "running":
        return State.RUNNING, ""
    if status == "interrupted" and noted is State.PAUSED:
        return State.PAUSED, ""
    return (State.INTERRUPTED if status else State.WAITING), ""


def _wait_for_workers(path: Path, plan: Plan) -> None:
    """Wait until the workers of a killed sweep have ended: they check for it every half second."""
    end = time.monotonic() + PATIENCE
    for run in plan.runs:
        directory = path / RUNS / run.name
        while is_held(directory):
            if time.monotonic() > end:
                raise Refused(f"run {str(directory)!r}: another process is writing it; one at a time")
            time.sleep(0.1)
