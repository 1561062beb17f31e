"""Runs on a server, from the caller's side: start one, go on with one, stop one."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fedsim.deployment.bundle import installed_code, make_bundle
from fedsim.deployment.operator.remote import Remote, Unreachable
from fedsim.deployment.operator.run_copy import Listing, RunCopy
from fedsim.deployment.wire import RUN_NAME
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.flower.control import FlowerRun

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


def submit(remote: Remote, experiment: Experiment, keys: Path | None) -> Submitted:
    """Start a run of an experiment.

    Raises:
        Refused: The server can't be reached, has other code, or does not accept the key.
    """
    name = f"{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    config = {**experiment.to_run_config(), "run-name": name, "code": installed_code()}
    _check_code(remote)
    return Submitted(remote, name, _here(remote, partial(remote.start_run, make_bundle(), config)), keys)


def resume(remote: Remote, name: str, keys: Path | None) -> Submitted:
    """Go on with a run that was stopped, killed or failed, or whose server was: a new run of the same series.

    Raises:
        Refused: There is no such run, it is completed, or it is going on.
    """
    before = find(remote, name, keys)
    listing = _here(remote, partial(remote.listing, name))
    if listing is None:
        raise Refused(
            f"run {name!r}: has no run directory at {remote.address}; it ended before its first round"
        )
    if listing.manifest["status"] == "completed":
        raise Refused(
            f"run {name!r}: is completed; only a run that was killed, interrupted or failed can be resumed"
        )
    if not before.flower.is_finished:
        raise Refused(f"run {name!r}: is going on at {remote.address}; {before.command('follow')} shows it")
    _check_code(remote)
    config = {**before.flower.config, "resume": True, "code": installed_code()}
    start = partial(remote.start_run, make_bundle(), config, before.flower.series_id)
    return Submitted(remote, name, _here(remote, start), keys, sessions_of(listing))


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


def sessions_of(listing: Listing) -> int:
    """Return how often a run has been resumed."""
    return len(listing.manifest.get("resumed", ()))
