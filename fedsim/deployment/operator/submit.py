"""Runs on a server: submit, resume, find and stop them."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fedsim.deployment.bundle import installed_code, make_bundle
from fedsim.deployment.operator.remote import Remote, Unreachable
from fedsim.deployment.operator.run_copy import RunCopy
from fedsim.deployment.wire import RUN_NAME
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.flower.control import FlowerRun


def experiment_for(file: Path, overrides: Iterable[str], *, loopback: bool) -> Experiment:
    """Read an experiment for a deployment: `privacy.noise` is `os` unless the file says otherwise.

    Raises `Refused` if it is invalid, or its noise is seeded and the server isn't on this machine.
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
            "privacy.noise = 'seeded': the seed reveals the noise, and other machines than this one take part; "
            "allowed: os"
        )
    return experiment


@dataclass(frozen=True)
class Submitted:
    """A run at a server."""

    remote: Remote
    name: str  # of its run directory at the server
    flower: FlowerRun  # that writes the directory, as of when this command began
    keys: Path | None  # the operator's key folder, for the commands in messages; None: `--insecure`
    sessions: int = -1  # how often the run directory had been resumed before
    stays: bool = True  # whether the server keeps running after this command

    @property
    def deployment(self) -> dict[str, Any]:
        """Value of `deployment` in the copy's manifest."""
        return {
            "address": str(self.remote.address),
            "run": self.name,
            "run-id": self.flower.run_id,
            "series-id": self.flower.series_id,
        }

    def copy_at(self, out: Path) -> RunCopy:
        """Return the run's copy: a new directory, or a copy that was begun before."""
        return RunCopy(out.absolute(), self.deployment, partial(self.remote.fetch, self.name))

    def command(self, name: str) -> str:
        """Return the command line of `follow`, `resume` or `stop` for this run."""
        how = ["--insecure"] if self.keys is None else ["--keys", str(self.keys)]
        return shlex.join(["fedsim", name, self.name, "--on", str(self.remote.address), *how])


def submit(remote: Remote, experiment: Experiment, keys: Path | None) -> Submitted:
    """Start a run; raises `Refused` where the server can't be reached, has other code, or does not accept the key."""
    name = f"{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return Submitted(remote, name, _start(remote, {**experiment.to_run_config(), "run-name": name}), keys)


def resume(remote: Remote, name: str, keys: Path | None) -> Submitted:
    """Resume a run that was stopped, was killed or has failed: start a new run of the same series.

    Raises `Refused` if there is no such run, it is completed, or it is running.
    """
    before = find(remote, name, keys)
    with _reaching(remote):
        listing = remote.listing(name)
    if listing is None:
        why = f"has no run directory at {remote.address}; it ended before its first round"
        raise Refused(f"run {name!r}: {why}")
    if listing.manifest["status"] == "completed":
        why = "is completed; only a run that was killed, interrupted or failed can be resumed"
        raise Refused(f"run {name!r}: {why}")
    if not before.flower.is_finished:
        raise Refused(f"run {name!r}: is going on at {remote.address}; {before.command('follow')} shows it")
    run = _start(remote, {**before.flower.config, "resume": True}, before.flower.series_id)
    return Submitted(remote, name, run, keys, listing.sessions)


def find(remote: Remote, name: str, keys: Path | None) -> Submitted:
    """Return a run that was started before; raises `Refused` where there is none of that name."""
    if not RUN_NAME.fullmatch(name):
        raise Refused(f"run {name!r}: must be the name of a run: letters, digits, dot, hyphen, underscore")
    with _reaching(remote):
        return Submitted(remote, name, remote.latest(name), keys)


def stop(run: Submitted, *, now: bool = False) -> str:
    """Have a run end after its current round, or at once; return a line that says which."""
    if run.flower.is_finished:
        raise Refused(f"run {run.name!r}: has ended ({run.flower.outcome})")
    with _reaching(run.remote):
        if now:
            run.remote.stop_run(run.flower.run_id)
            return f"{run.name}: stopped; {run.command('resume')} goes on"
        if not run.remote.ask_to_stop(run.name):
            raise Refused(f"run {run.name!r}: has not begun its first round; allowed: --now")
    return f"{run.name}: ends after the round in flight"


def _start(remote: Remote, config: Mapping[str, Any], series: int | None = None) -> FlowerRun:
    """Start a run at a server, which must have the same code as this command; raises `Refused`."""
    with _reaching(remote):
        here, there = installed_code(), remote.server()
        if there["code"] != here:
            raise Refused(
                f"--on {remote.address}: the server has other code ({there['version']}, {there['code'][:12]}) than "
                f"this command ({here[:12]}); install the same fedsim on both"
            )
        return remote.start_run(make_bundle(), {**config, "code": here}, series)


@contextmanager
def _reaching(remote: Remote) -> Iterator[None]:
    """Raise `Refused` where a server can't be reached."""
    try:
        yield
    except Unreachable as error:
        raise Refused(f"--on {remote.address}: the server can't be reached: {error}") from None
