"""Following a run on a server: show its progress and copy its directory, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.deployment.operator.remote import Unreachable
from fedsim.deployment.operator.run_copy import Listing, RunCopy
from fedsim.deployment.operator.submit import Submitted
from fedsim.errors import Interrupted, RunFailed
from fedsim.flower.control import FlowerRun
from fedsim.interruption import interruptible
from fedsim.progress import Progress
from fedsim.results import Run

POLL = 0.4  # seconds between two requests for a run's state
LONGEST_WAIT = 5.0  # seconds between two tries to reach a server that doesn't answer, at most


@dataclass
class Follower:
    """Follows a run to its end."""

    run: Submitted
    copy: RunCopy  # of its directory
    progress: Progress  # called with its rounds
    tell: Callable[[str], None]  # called with a line when the server is lost, and when it answers again
    done: int | None = None  # number of rounds not to report; None: those that were over when following began
    watch: Callable[[bool], None] = lambda has_begun: None
    """Called at every request, with whether the run has begun; before its rounds are reported."""
    _told: int = field(default=0, init=False)
    _has_started: bool = field(default=False, init=False)

    def follow(self) -> None:
        """Return when the run is completed and copied; wait for a server that doesn't answer.

        Raises:
            RunFailed: It has ended otherwise than completed.
            Refused: The server no longer knows it.
        """
        address, lost, wait = self.run.remote.address, False, POLL
        while True:
            try:
                flower, listing = self._poll()
                if flower.is_finished:
                    self._end(flower, listing)
                    return
            except Unreachable as error:
                self.watch(self.copy.has_begun)
                if not lost:
                    self.tell(f"lost the server at {address} ({error}); trying until it is back")
                lost, wait = True, min(2 * wait, LONGEST_WAIT)
            else:
                if lost:
                    self.tell(f"the server at {address} is back")
                lost, wait = False, POLL
            time.sleep(wait)

    def _poll(self) -> tuple[FlowerRun, Listing | None]:
        """Get the run's state; Flower's first, so that the listed files of an ended run are complete."""
        remote = self.run.remote
        flower, listing = remote.flower_run(self.run.flower.run_id), remote.listing(self.run.name)
        self.watch(listing is not None)
        if listing is not None:
            self.copy.update(listing)
            self._show()
        return flower, listing

    def _show(self) -> None:
        """Report the rounds that are new."""
        rows = self.copy.rows
        if not self._has_started:
            self._told = len(rows) if self.done is None else self.done
            self.progress.started(self.copy.path, self.copy.rounds, self._told)
            self._has_started = True
        for row in rows:
            if row["round"] > self._told:
                self._told = row["round"]
                self.progress.round_done(row)

    def _end(self, flower: FlowerRun, listing: Listing | None) -> None:
        """Complete the copy of a run that has ended; raises unless the run is completed."""
        run = self.run
        if listing is None or listing.sessions <= run.sessions:
            raise RunFailed(flower.details or f"the run was {flower.outcome} before its first round")
        status, error = _ending(flower, listing.manifest)
        self.copy.complete(listing, status, error)
        if status == "completed":
            return
        after, cure = f"after round {len(self.copy.rows)} of {self.copy.rounds}", self._cure(listing.manifest)
        if status == "interrupted":
            raise Interrupted(f"interrupted {after}{cure}")
        raise RunFailed(f"{error} ({after}{cure})")

    def _cure(self, manifest: Mapping[str, Any]) -> str:
        """Return how to resume the run, as the end of a message."""
        if not self.run.stays:
            return ""
        if not manifest["resumable"]:
            return f"; can't be resumed: {manifest['not-resumable']}"
        return f"; {self.run.command('resume')} goes on"


def follow(
    run: Submitted, out: Path, progress: Progress, tell: Callable[[str], None], done: int | None = None
) -> Run:
    """Follow a run to its end, as `Follower` does. A signal only ends the following.

    The copy at `out` is a new directory, or a copy that was begun before.

    Raises:
        Refused: The copy can't be written.
        Interrupted: A signal came (the message says how to follow the run again), or the run was interrupted.
        RunFailed: The run has ended otherwise than completed.
    """
    with run.copy_at(out) as copy, interruptible(progress.stopping):
        try:
            Follower(run, copy, progress, tell, done).follow()
        except KeyboardInterrupt:
            how = f"{run.command('follow')} follows it"
            raise Interrupted(f"stopped following the run, which goes on; {how}") from None
    return Run(copy.path)


def _ending(flower: FlowerRun, manifest: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the status of a run that has ended, and its error if it isn't completed."""
    if manifest["status"] != "running":
        return manifest["status"], manifest.get("error")
    if flower.was_stopped:
        return "interrupted", "stopped at once"
    return "failed", f"the ServerApp ended without an error of its own: {flower.details or flower.outcome}"
