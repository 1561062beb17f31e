"""Schedules a sweep: all runs, or, with pruning, a bracket's runs up to its next rung."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.results.run import Run
from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.progress import SweepProgress
from fedsim.sweeps.pruning import Bracket, Decision, Pruning, Result, Setting, brackets_of, standing
from fedsim.sweeps.state import State, SweepDirectory

Part = tuple[PlannedRun, int | None]  # a run, and the round after which it pauses; None: at its end
OVER = (State.COMPLETED, State.FAILED, State.PRUNED)


class Schedule:
    """Returns the next runs, and records pruned ones; the listener is called with decisions and pruned runs.

    Everything follows from the results on the disk, so a kill loses nothing.
    """

    def __init__(self, directory: SweepDirectory, listener: SweepProgress, *, retry_failed: bool) -> None:
        plan = directory.plan
        self._directory = directory
        self._listener = listener
        self._pruning = plan.pruning or Pruning()
        # Without pruning: one bracket of all runs, without rungs.
        everything = Bracket("", (Setting("", plan.runs),), 0, ())
        self._brackets = [everything] if plan.pruning is None else brackets_of(plan.runs, plan.pruning)
        self._bracket_of = {
            run.name: bracket
            for bracket in self._brackets
            for setting in bracket.settings
            for run in setting.runs
        }
        self._results = {
            run.name: self._read(run.name, retry=retry_failed)
            for run in plan.runs
            if directory.states[run.name] is not State.WAITING
        }
        self._given: dict[str, int | None] = {}

    def begin(self) -> list[Part]:
        """Return the first runs, the longest first."""
        parts = [part for bracket in self._brackets for part in self._advance(bracket)]
        return sorted(parts, key=lambda part: -part[0].work)

    def ended(self, name: str) -> list[Part]:
        """Process a run's end, and return the next runs."""
        self._results[name] = self._read(name)
        return list(self._advance(self._bracket_of[name]))

    def _advance(self, bracket: Bracket) -> Iterator[Part]:
        """Write due decisions, and yield the remaining runs up to the next one."""
        found = standing(bracket, self._results, self._pruning)
        for decision in found.decisions:
            self._write(decision)
        for run in sorted(found.next, key=lambda run: -run.work):
            if self._given.get(run.name, 0) != found.until:
                self._given[run.name] = found.until
                yield run, found.until

    def _write(self, decision: Decision) -> None:
        """Record the runs pruned by a decision, unless recorded before."""
        states = self._directory.states
        pruned = [
            (run.name, decision.reason(place))
            for place, (setting, _) in enumerate(decision.ranking)
            for run in setting.runs
            if place >= decision.kept and states[run.name] not in OVER
        ]
        if pruned:
            self._listener.decided(decision)
        for name, reason in pruned:
            self._directory.prune(name, decision.rung, reason)
            self._listener.run_ended(name, State.PRUNED, reason)

    def _read(self, name: str, *, retry: bool = False) -> Result:
        """Return a run's results so far; with `retry` a failed one continues."""
        state, path = self._directory.states[name], self._directory.run_path(name)
        failed = state is State.FAILED and not retry
        if not (path / "manifest.json").is_file():  # it could not even begin
            return Result(failed=failed)
        run = Run(path)
        status = run.status
        return Result(run.rows, status == "completed", failed, status not in ("running", "killed"))
