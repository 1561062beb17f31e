"""Checks whether a run directory can be resumed, and from where, without changing it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import Refused
from fedsim.results.checkpoint import FOLDER, Checkpoint, read_checkpoint
from fedsim.results.disclosure import EXPERIMENT, MANIFEST, METRICS, is_restricted
from fedsim.results.files import START, LineFile
from fedsim.results.manifest import experiment_sha256
from fedsim.results.private import read_private_manifest
from fedsim.results.secret_state import check_there, state_of


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
        manifest = _resumable(path)
        state = state_of(path, manifest, home)
        if state != path:
            check_there(state)
        began_with = read_private_manifest(path) if is_restricted(manifest["noise"]) else manifest
        data_sha256 = str(began_with["data-sha256"])
        checkpoint = _checkpoint_in(state, path, manifest, data_sha256)
        metrics = LineFile(path / METRICS, checkpoint.files[METRICS] if checkpoint else START)
        return Resumption(manifest, state, checkpoint, metrics, metrics.rows(), data_sha256)
    except Refused as refused:
        raise Refused(f"run {str(path)!r}: {refused}") from None


def check_data(path: Path, found: Resumption, sha256: str) -> None:
    """Refuse to resume with other data than the run began with; raises `Refused`."""
    if sha256 != found.data_sha256:
        hashes = f": data-sha256 was {found.data_sha256} and is {sha256}"
        said = "" if is_restricted(found.manifest["noise"]) else hashes
        raise Refused(f"run {str(path)!r}: the data has changed since the run began{said}")


def _resumable(path: Path) -> dict[str, Any]:
    """Return the manifest of a run that can be resumed; raises `Refused` for others."""
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    except OSError:
        raise Refused("has no manifest.json; a run directory is needed") from None
    except ValueError:
        raise Refused("manifest.json is not JSON; a run directory is needed") from None
    if "run-id" not in manifest:
        raise Refused("was written by a version of fedsim that kept no checkpoints")
    if manifest.get("kind", "experiment") != "experiment":
        raise Refused(f"is the run of a {manifest['kind']}; only an experiment's can be resumed")
    if manifest["status"] == "completed":
        raise Refused("is completed; only a run that was killed, interrupted or failed can be resumed")
    if not manifest["resumable"]:
        raise Refused(f"can't be resumed: {manifest['not-resumable']}")
    sha256 = None
    with suppress(OSError, ValueError):
        sha256 = experiment_sha256((path / EXPERIMENT).read_text(encoding="utf-8"))
    if sha256 != manifest["experiment-sha256"]:
        raise Refused("experiment.toml has changed since the run began; only [runtime] may change")
    if "deployment" in manifest:
        run, address = manifest["deployment"]["run"], manifest["deployment"]["address"]
        raise Refused(
            f"is the copy of a run at {address}; fedsim resume {run} --on {address} goes on with it"
        )
    return manifest


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
