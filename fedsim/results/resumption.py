"""Checks whether a run directory can be resumed, and from where, without changing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import Refused
from fedsim.results.checkpoint import FOLDER, Checkpoint, read_checkpoint
from fedsim.results.disclosure import METRICS, is_restricted
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
    run = f"run {str(path)!r}"
    manifest = _manifest(path, run)
    if manifest.get("kind", "experiment") != "experiment":
        raise Refused(f"{run}: is the run of a {manifest['kind']}; only an experiment's can be resumed")
    if manifest["status"] == "completed":
        raise Refused(
            f"{run}: is completed; only a run that was killed, interrupted or failed can be resumed"
        )
    if not manifest["resumable"]:
        raise Refused(f"{run}: can't be resumed: {manifest['not-resumable']}")
    if _experiment_sha256(path) != manifest["experiment-sha256"]:
        raise Refused(f"{run}: experiment.toml has changed since the run began; only [runtime] may change")
    if "deployment" in manifest:
        there = manifest["deployment"]
        raise Refused(
            f"{run}: is the copy of a run at {there['address']}; fedsim resume {there['run']} --on "
            f"{there['address']} goes on with it"
        )
    try:
        state = state_of(path, manifest, home)
        if state != path:
            check_there(state)
        began_with = read_private_manifest(path) if is_restricted(manifest["noise"]) else manifest
        data_sha256 = str(began_with["data-sha256"])
        checkpoint = _checkpoint_in(state, path, manifest, data_sha256)
        metrics = LineFile(path / METRICS, checkpoint.files[METRICS] if checkpoint else START)
        return Resumption(manifest, state, checkpoint, metrics, metrics.rows(), data_sha256)
    except Refused as refused:
        raise Refused(f"{run}: {refused}") from None


def check_data(path: Path, found: Resumption, sha256: str) -> None:
    """Refuse to resume with other data than the run began with; raises `Refused`."""
    if sha256 != found.data_sha256:
        hashes = f": data-sha256 was {found.data_sha256} and is {sha256}"
        said = "" if is_restricted(found.manifest["noise"]) else hashes
        raise Refused(f"run {str(path)!r}: the data has changed since the run began{said}")


def _manifest(path: Path, run: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    except OSError:
        raise Refused(f"{run}: has no manifest.json; a run directory is needed") from None
    except ValueError:
        raise Refused(f"{run}: manifest.json is not JSON; a run directory is needed") from None
    if "run-id" not in manifest:
        raise Refused(f"{run}: was written by a version of fedsim that kept no checkpoints")
    return manifest


def _experiment_sha256(path: Path) -> str | None:
    try:
        return experiment_sha256((path / "experiment.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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
    expected = {"experiment_sha256": manifest["experiment-sha256"], "data_sha256": data_sha256}
    for name, sha256 in expected.items():
        key, theirs = name.replace("_", "-"), getattr(checkpoint, name)
        if theirs != sha256:
            secret = name == "data_sha256" and is_restricted(manifest["noise"])
            raise Refused(
                f"{FOLDER}: was made with {f'another {key}' if secret else f'{key} {theirs}, not {sha256}'}"
            )
