"""Runs on a server, from the caller's side: start one, follow it, stop it, go on with it."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flwr.supercore.constant import SubStatus
from flwr.supercore.fab import Fab

from fedsim.deployment.bundle import installed_code, make_bundle
from fedsim.deployment.copying import Listing, RunCopy
from fedsim.deployment.remote import RUN_NAME, FlowerRun, Remote, Unreachable
from fedsim.errors import Interrupted, Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.interruption import interruptible
from fedsim.progress import Progress
from fedsim.results import Run

POLL = 0.4  # seconds between two looks at a run
LONGEST_WAIT = 5.0  # seconds between two tries to reach a server that is away
Answer = TypeVar("Answer")


def experiment_for(file: Path, overrides: Iterable[str], *, loopback: bool) -> Experiment:
    """Read an experiment that a deployment is to run: its noise is the operating system's unless it says otherwise.

    Raises:
        Refused: It can't be, or it says that its noise is seeded and others than this machine would see it.
    """
    overrides = list(overrides)
    experiment = Experiment.load(file, overrides)
    privacy = experiment.privacy
    if not privacy.releases:
        return experiment
    if "noise" not in privacy.model_fields_set:
        return Experiment.load(file, [*overrides, "privacy.noise=os"])
    if privacy.noise == "seeded" and not loopback:
        raise Refused(
            "privacy.noise = 'seeded': whoever has the seed has the noise, and others than this machine take part; "
            "allowed: os"
        )
    return experiment


@dataclass(frozen=True)
class Submitted:
    """A run at a server.

    Attributes:
        remote: The server.
        name: Of its run directory there.
        flower: The run that writes it, as Flower had it when it began.
        keys: The operator's folder, for the commands that messages name.
        sessions: How often the run directory had been resumed before.
        stays: Whether the server is there when this command has ended.
    """

    remote: Remote
    name: str
    flower: FlowerRun
    keys: Path | None
    sessions: int = -1
    stays: bool = True

    @property
    def deployment(self) -> dict[str, Any]:
        """What the copy's manifest says of where the run is."""
        return {
            "address": str(self.remote.address),
            "run": self.name,
            "run-id": self.flower.run_id,
            "series-id": self.flower.series_id,
        }

    def copy_at(self, out: Path) -> RunCopy:
        """Return the run's copy: a new directory, or one that was begun before."""
        return RunCopy(out.absolute(), self.deployment, partial(self.remote.fetch, self.name))

    def command(self, name: str) -> str:
        """Return the command `follow`, `resume` or `stop` for this run."""
        how = ["--insecure"] if self.keys is None else ["--keys", str(self.keys)]
        return shlex.join(["fedsim", name, self.name, "--on", str(self.remote.address), *how])


# --- starting -------------------------------------------------------------------------------------------------


def submit(remote: Remote, experiment: Experiment, keys: Path | None) -> Submitted:
    """Start a run of an experiment.

    Raises:
        Refused: The server can't be reached, has other code, or does not accept the key.
    """
    name = f"{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    config = {**experiment.to_run_config(), "run-name": name, "code": installed_code()}
    _check_code(remote)
    return Submitted(remote, name, _here(remote, partial(remote.start_run, _fab(), config)), keys)


def resume(remote: Remote, name: str, keys: Path | None) -> Submitted:
    """Go on with a run that was stopped, killed or failed, or whose server was: a new run of the same series.

    Raises:
        Refused: There is no such run, it is completed, or it is going on.
    """
    before = find(remote, name, keys)
    listing = _here(remote, partial(remote.listing, name))
    if listing is None:
        raise Refused(f"run {name!r}: has no run directory at {remote.address}; it ended before its first round")
    if listing.manifest["status"] == "completed":
        raise Refused(f"run {name!r}: is completed; only a run that was killed, interrupted or failed can be resumed")
    if not before.flower.is_finished:
        raise Refused(f"run {name!r}: is going on at {remote.address}; {before.command('follow')} shows it")
    _check_code(remote)
    config = {**before.flower.config, "resume": True, "code": installed_code()}
    start = partial(remote.start_run, _fab(), config, before.flower.series_id)
    return Submitted(remote, name, _here(remote, start), keys, _sessions(listing))


def find(remote: Remote, name: str, keys: Path | None) -> Submitted:
    """Return a run that was started before.

    Raises:
        Refused: There is none of that name.
    """
    if not RUN_NAME.fullmatch(name):
        raise Refused(f"run {name!r}: must be the name of a run: letters, digits, dot, hyphen, underscore")
    return Submitted(remote, name, _here(remote, partial(remote.latest, name)), keys)


def stop(run: Submitted, *, now: bool = False) -> str:
    """Have a run end after the round in flight, or at once; returns what will happen, in words."""
    if run.flower.is_finished:
        raise Refused(f"run {run.name!r}: has ended ({run.flower.outcome})")
    if now:
        _here(run.remote, partial(run.remote.stop_run, run.flower.run_id))
        return f"{run.name}: stopped; {run.command('resume')} goes on"
    if not _here(run.remote, partial(run.remote.ask_to_stop, run.name)):
        raise Refused(f"run {run.name!r}: has not begun its first round; allowed: --now")
    return f"{run.name}: ends after the round in flight"


def _fab() -> Fab:
    content = make_bundle()
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


def _check_code(remote: Remote) -> None:
    """Refuse a server that would run something else than this command was written for."""
    there = _here(remote, remote.server)
    if there["code"] != installed_code():
        raise Refused(
            f"--on {remote.address}: the server has other code ({there['version']}, {there['code'][:12]}) than this "
            f"command ({installed_code()[:12]}); install the same fedsim on both"
        )


def _here(remote: Remote, ask: Callable[[], Answer]) -> Answer:
    """Return an answer of a server that must be there now."""
    try:
        return ask()
    except Unreachable as error:
        raise Refused(f"--on {remote.address}: the server can't be reached: {error}") from None


# --- following ------------------------------------------------------------------------------------------------


@dataclass
class Follower:
    """Follows a run to its end.

    Attributes:
        run: The run.
        copy: Where it is copied to.
        progress: Hears of its rounds.
        tell: Hears that the server is away, and that it is back.
        done: Rounds not to tell of; None: those that are there when it begins.
        watch: Called at every look at the run.
    """

    run: Submitted
    copy: RunCopy
    progress: Progress
    tell: Callable[[str], None]
    done: int | None = None
    watch: Callable[[], None] = lambda: None
    _told: int = field(default=0, init=False)
    _has_started: bool = field(default=False, init=False)

    def follow(self) -> None:
        """Return when the run is completed and copied; a server that is away is waited for.

        Raises:
            RunFailed: It has ended otherwise.
            Refused: The server no longer knows it.
        """
        address, lost, wait = self.run.remote.address, False, POLL
        while True:
            try:
                self.watch()
                flower, listing = self._look()
                if flower.is_finished:
                    self._end(flower, listing)
                    return
            except Unreachable as error:
                if not lost:
                    self.tell(f"lost the server at {address} ({error}); trying until it is back")
                lost, wait = True, min(2 * wait, LONGEST_WAIT)
            else:
                if lost:
                    self.tell(f"the server at {address} is back")
                lost, wait = False, POLL
            time.sleep(wait)

    def _look(self) -> tuple[FlowerRun, Listing | None]:
        """See how the run is: Flower first, so that what is listed of a run that has ended is all of it."""
        remote = self.run.remote
        flower, listing = remote.flower_run(self.run.flower.run_id), remote.listing(self.run.name)
        if listing is not None:
            self.copy.update(listing)
            self._show()
        return flower, listing

    def _show(self) -> None:
        """Tell of the rounds that are new."""
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
        """Complete the copy of a run that has ended; raises if it has not ended well."""
        run = self.run
        if listing is None or _sessions(listing) <= run.sessions:
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
        """Return how the run can go on, to end a message with."""
        if not self.run.stays:
            return ""
        if not manifest["resumable"]:
            return f"; can't be resumed: {manifest['not-resumable']}"
        return f"; {self.run.command('resume')} goes on"


def follow(self) -> None:
        """Return when the run is completed and copied; a server that is away is waited for.

        Raises:
            RunFailed: It has ended otherwise.
            Refused: The server no longer knows it.
        """
        address, lost, wait = self.run.remote.address, False, POLL
        while True:
            try:
                self.watch()
                flower, listing = self._look()
                if flower.is_finished:
                    self._end(flower, listing)
                    return
            except Unreachable as error:
                if not lost:
                    self.tell(f"lost the server at {address} ({error}); trying until it is back")
                lost, wait = True, min(2 * wait, LONGEST_WAIT)
            else:
                if lost:
                    self.tell(f"the server at {address} is back")
                lost, wait = False, POLL
            time.sleep(wait)

    def _look(self) -> tuple[FlowerRun, Listing | None]:
        """See how the run is: Flower first, so that what is listed of a run that has ended is all of it."""
        remote = self.run.remote
        flower, listing = remote.flower_run(self.run.flower.run_id), remote.listing(self.run.name)
        if listing is not None:
            self.copy.update(listing)
            self._show()
        return flower, listing

    def _show(self) -> None:
        """Tell of the rounds that are new."""
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
        """Complete the copy of a run that has ended; raises if it has not ended well."""
        run = self.run
        if listing is None or _sessions(listing) <= run.sessions:
            raise RunFailed(flower.details or f"the run was {flower.outcome} before its first round")
        status, error = _ending(flower, listing.manifest)
        self.copy.complete(listing, status, error)
        if status == "completed":
            return
        after = f"after round {len(self.copy.rows)} of {self.copy.rounds}"
        cure = f"{run.command('resume')} goes on"
        if not listing.manifest["resumable"]:
            cure = f"can't be resumed: {listing.manifest['not-resumable']}"
        if status == "interrupted":
            raise Interrupted(f"interrupted {after}; {cure}")
        raise RunFailed(f"{error} ({after}; {cure})")


def follow(
    run: Submitted, out: Path, progress: Progress, tell: Callable[[str], None], done: int | None = None
) -> Run:
    """Follow a run to its end; a signal lets go of it, and the run goes on.

    Args:
        run: The run.
        out: The copy: a new directory, or one that was begun before.
        progress: Hears of its rounds.
        tell: Hears that the server is away, and that it is back.
        done: Rounds not to tell of; None: those that are there already.

    Raises:
        Refused: The copy can't be written.
        Interrupted: A signal came; the message says how to follow the run again. Or the run was interrupted.
        RunFailed: The run has ended otherwise than completed.
    """
    with run.copy_at(out) as copy, interruptible(progress.stopping):
        try:
            Follower(run, copy, progress, tell, done).follow()
        except KeyboardInterrupt:
            raise Interrupted(f"let go of the run, which goes on; {run.command('follow')} follows it") from None
    return Run(copy.path)


def _ending(flower: FlowerRun, manifest: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the status of a run that has ended, and why if not well."""
    if manifest["status"] != "running":
        return manifest["status"], manifest.get("error")
    if flower.outcome == SubStatus.STOPPED:
        return "interrupted", "stopped at once"
    return "failed", f"the ServerApp ended without a word: {flower.details or flower.outcome}"


def _sessions(listing: Listing) -> int:
    return len(listing.manifest.get("resumed", ()))
