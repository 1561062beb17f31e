"""Listeners for a sweep's progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.pruning import Decision
from fedsim.sweeps.state import State, Sweep


class SweepProgress(Protocol):
    """Listens to a sweep: once before its first run, then to each run and round.

    Its methods do nothing, for listeners that derive from it and need only some.
    """

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """The plan is written, and these runs remain; all others have ended before."""
        return

    def run_started(self, name: str, rounds: int, done: int) -> None:
        """A run begins; `done` of `rounds` rounds were made before."""
        return

    def round_done(self, name: str, row: Mapping[str, Any]) -> None:
        """A round of a run has ended, with its row of `metrics.jsonl`."""
        return

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """A run has completed (`reason` is empty), failed, or paused at a rung."""
        return

    def decided(self, decision: Decision) -> None:
        """All runs of a bracket have reached a rung; `run_ended` is called for pruned ones after this."""
        return

    def stopping(self) -> None:
        """A signal came, and each run ends after its round; called from the signal handler."""
        return


class SilentSweep(SweepProgress):
    """A listener that ignores everything."""
