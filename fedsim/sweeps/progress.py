"""Telling someone how a sweep is going."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fedsim.sweeps.planned_run import PlannedRun
from fedsim.sweeps.pruning import Decision
from fedsim.sweeps.state import State, Sweep


class SweepProgress(Protocol):
    """Hears of a sweep: once before its first run, then of each run and each of its rounds."""

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """The plan is written, and these runs are left; all others have ended before."""

    def run_started(self, name: str, rounds: int, done: int) -> None:
        """A run begins; of `rounds` rounds, `done` were made before."""

    def round_done(self, name: str, row: Mapping[str, Any]) -> None:
        """A round of a run has ended, with its row of `metrics.jsonl`."""

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """A run has ended, well (`reason` is empty) or not; or it has paused at a rung."""

    def decided(self, decision: Decision) -> None:
        """All runs of a bracket have come to a rung; those that do not go on are told by `run_ended` after this."""

    def stopping(self) -> None:
        """A signal has come, and each run ends after its round; called from the signal's handler."""


class SilentSweep:
    """Tells no one."""

    def began(self, sweep: Sweep, todo: Sequence[PlannedRun]) -> None:
        """Say nothing."""

    def run_started(self, name: str, rounds: int, done: int) -> None:
        """Say nothing."""

    def round_done(self, name: str, row: Mapping[str, Any]) -> None:
        """Say nothing."""

    def run_ended(self, name: str, state: State, reason: str) -> None:
        """Say nothing."""

    def decided(self, decision: Decision) -> None:
        """Say nothing."""

    def stopping(self) -> None:
        """Say nothing."""
