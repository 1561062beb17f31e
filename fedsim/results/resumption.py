"""Checks whether a run directory can be resumed, and from where, without changing it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import Refused
from fedsim.privacy.events import Noise
from fedsim.results.checkpoint import DATABASE, FOLDER, Checkpoint, read_checkpoint
from fedsim.results.disclosure import (
    EXPERIMENT,
    LEDGER,
    MANIFEST,
    METRICS,
    PRIVATE,
    ROWS,
    is_restricted,
    mechanisms_of,
)
from fedsim.results.files import START, LineFile, check_file, check_folder, read_file, unless_damaged
from fedsim.results.lock import NAME as LOCK
from fedsim.results.manifest import experiment_sha256, read_manifest
from fedsim.results.private import read_private_manifest
from fedsim.results.secret_state import check_there, state_of

NEEDED = ("status", "resumable", "experiment-sha256", "name", "versions", "modules", "noise")


@dataclass(frozen=True)
class Resumption:
    """Where a run resumes.

    Attributes:
        manifest: As the last session left it.
        state: The state folder.
        checkpoint: The last whole round; None: the run begins again at round 1.
        metrics: The file of rows, at the position of that round.
        rows: The rows up to there.
        data_sha256: Hash of the run's data.
    """

    manifest: dict[str, Any]
    state: Path
    checkpoint: Checkpoint | None
    metrics: LineFile
    rows: list[dict[str, Any]]
    data_sha256: str


def examine(path: Path, home: Path | None = None) -> Resumption:
    """Find where a run directory resumes; `home` is the folder of secret states, None: this user's.

    Raises:
        Refused: It is no run directory or a copy, its run is completed or can't be resumed, the experiment has
            changed, or its files don't belong together.
    """
    try:
        return _examined(path, home)
    except Refused as refused:
        raise Refused(f"run {str(path)!r}: {refused}") from None
    except OSError as error:
        raise Refused(f"run {str(path)!r}: {error.filename}: {error.strerror}") from None


def _examined(path: Path, home: Path | None) -> Resumption:
    manifest = _resumable(path)
    with unless_damaged(path):
        state = state_of(path, manifest, home)
        if state != path:
            check_there(state)
        for folder in (path / PRIVATE, state, state / FOLDER):
            if folder != path:  # which may be a link of the user's
                check_folder(folder)
        for file in (path / LOCK, path / METRICS, path / ROWS, state / FOLDER / DATABASE):
            check_file(file)
        began_with = read_private_manifest(path) if is_restricted(manifest["noise"]) else manifest
        data_sha256 = str(began_with["data-sha256"])
        checkpoint = _checkpoint_in(state, path, manifest, data_sha256)
        _check_ledger(path, manifest, checkpoint)
        metrics = LineFile(path / METRICS, checkpoint.files[METRICS] if checkpoint else START)
        return Resumption(manifest, state, checkpoint, metrics, metrics.rows(), data_sha256)


def ledger_in(path: Path, manifest: Mapping[str, Any]) -> Path:
    """Return the path of a run's ledger, which only runs with a mechanism have."""
    return path / PRIVATE / LEDGER if is_restricted(manifest.get("noise", Noise.SEEDED)) else path / LEDGER


def check_data(path: Path, found: Resumption, sha256: str) -> None:
    """Refuse to resume with other data than the run began with; raises `Refused`."""
    if sha256 != found.data_sha256:
        hashes = f": data-sha256 was {found.data_sha256} and is {sha256}"
        said = "" if is_restricted(found.manifest["noise"]) else hashes
        raise Refused(f"run {str(path)!r}: the data has changed since the run began{said}")


def _resumable(path: Path) -> dict[str, Any]:
    """Return the manifest of a run that can be resumed; raises `Refused` for others."""
    try:
        manifest = read_manifest(path / MANIFEST)
    except OSError:
        raise Refused("has no manifest.json; a run directory is needed") from None
    if "run-id" not in manifest:
        raise Refused("was written by a version of fedsim that kept no checkpoints")
    if missing := [key for key in NEEDED if key not in manifest]:
        raise Refused(f"manifest.json: is damaged; it has no {missing[0]}")
    if manifest.get("kind", "experiment") != "experiment":
        raise Refused(f"is the run of a {manifest['kind']}; only an experiment's can be resumed")
    if manifest["status"] == "completed":
        raise Refused("is completed; only a run that was killed, interrupted or failed can be resumed")
    if not manifest["resumable"]:
        raise Refused(f"can't be resumed: {manifest['not-resumable']}")
    sha256 = None
    with suppress(OSError, ValueError, RecursionError):
        sha256 = experiment_sha256(read_file(path / EXPERIMENT).decode())
    if sha256 != manifest["experiment-sha256"]:
        raise Refused("experiment.toml has changed since the run began; only [runtime] may change")
    if "deployment" in manifest:
        run, address = manifest["deployment"]["run"], manifest["deployment"]["address"]
        raise Refused(
            f"is the copy of a run at {address}; fedsim resume {run} --on {address} goes on with it"
        )
    return manifest


def _check_ledger(path: Path, manifest: Mapping[str, Any], checkpoint: Checkpoint | None) -> None:
    """Refuse a run that releases and has no ledger: what it has spent would be forgotten; or one that has another's."""
    ledger = ledger_in(path, manifest)
    releases = bool(set(mechanisms_of(path)) - {"secagg"})
    known = releases if checkpoint is None else LEDGER in checkpoint.files
    if check_file(ledger):
        if not (known or is_restricted(manifest["noise"])):
            raise Refused(f"{LEDGER}: is not of this run, which has no privacy mechanism")
    elif known or releases:
        raise Refused(f"{LEDGER}: is not there, so what the run has spent is unknown")


def _checkpoint_in(state: Path, path: Path, manifest: dict[str, Any], data_sha256: str) -> Checkpoint | None:
    """Return the run's checkpoint, if any; raises `Refused`, with its folder if that is outside."""
    try:
        checkpoint = read_checkpoint(state)
        if checkpoint is not None:
            _check(checkpoint, manifest, data_sha256)
    except Refused as refused:
        if state == path:
            raise
        raise Refused(f"in {str(state)!r}: {refused}") from None
    return checkpoint


def _check(checkpoint: Checkpoint, manifest: dict[str, Any], data_sha256: str) -> None:
    """Refuse a checkpoint of another run."""
    if checkpoint.run_id != manifest["run-id"]:
        raise Refused(f"{FOLDER}: belongs to run {checkpoint.run_id}, and this is run {manifest['run-id']}")
    then, now = checkpoint.experiment_sha256, manifest["experiment-sha256"]
    if then != now:
        raise Refused(f"{FOLDER}: was made with experiment-sha256 {then}, not {now}")
    if checkpoint.data_sha256 != data_sha256:
        hashes = f"data-sha256 {checkpoint.data_sha256}, not {data_sha256}"
        said = "another data-sha256" if is_restricted(manifest["noise"]) else hashes
        raise Refused(f"{FOLDER}: was made with {said}")
