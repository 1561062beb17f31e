"""Writing a run directory, readable while the run is alive."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import Refused
from fedsim.threads import cores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsim.experiment import Experiment

PACKAGES = ("fedsim", "flwr", "flwr-datasets", "numpy", "torch", "safetensors", "scikit-learn")


def default_run_path(experiment: Experiment) -> Path:
    """Return a path for a new run that does not exist: `runs/<name>-<UTC time>` under the current folder."""
    return free_run_path(experiment.name)


def free_run_path(name: str) -> Path:
    """Return `runs/<name>-<UTC time>` under the current folder, with a number where that exists."""
    stem = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    for attempt in range(1, 10_000):
        path = Path("runs") / (stem if attempt == 1 else f"{stem}-{attempt}")
        if not path.exists():
            return path.absolute()
    raise Refused(f"runs/{stem}: exists, and so do 10,000 like it")


def from_here(path: Path) -> Path:
    """Return a path as seen from the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_free(path: Path) -> None:
    """Refuse a run directory that exists or can't be made; nothing is written.

    Raises:
        Refused: The path is taken, or its nearest existing folder can't be written to.
    """
    if path.exists() or path.is_symlink():
        raise Refused(f"--out {str(path)!r}: exists; a new directory is needed")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise Refused(f"--out {str(path)!r}: {str(parent)!r} can't be written to; a writable place is needed")


class RunDirectory:
    """A run directory being written.

    Files appear whole (written, synced, renamed); `metrics.jsonl` grows by a synced line a round. As a context
    manager it marks the run completed, or failed with the reason, when the block ends.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest
        self._started = time.perf_counter()
        self._last: dict[str, Any] = {}

    @classmethod
    def create(cls, path: Path, experiment: Experiment, data_sha256: str) -> RunDirectory:
        """Make the directory with `experiment.toml` and a manifest that says `running`.

        Raises:
            Refused: The path exists or can't be written.
        """
        files = {"experiment.toml": experiment.to_toml().encode(), "metrics.jsonl": b""}
        return cls.begin(path, _manifest(experiment, data_sha256), files)

    @classmethod
    def begin(cls, path: Path, manifest: dict[str, Any], files: Mapping[str, bytes]) -> RunDirectory:
        """Make the directory with some files and a manifest.

        Raises:
            Refused: The path exists or can't be written.
        """
        check_free(path)
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise Refused(f"--out {str(path)!r}: {error.strerror}") from None
        directory = cls(path, manifest)
        for name, content in files.items():
            directory._write(name, content)
        directory._write_manifest()
        return directory

    def append_round(self, row: dict[str, Any]) -> None:
        """Add a round's row to `metrics.jsonl`; what was not measured is absent."""
        with (self.path / "metrics.jsonl").open("ab") as file:
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._last |= row

    def write_model(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Write the final weights to `model.safetensors`, under the names of the model's state."""
        from safetensors.numpy import save

        self._write("model.safetensors", save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manifest["status"] = "completed" if raised is None else "failed"
        if raised is not None:
            interrupted = isinstance(raised, KeyboardInterrupt)
            self._manifest["error"] = "interrupted" if interrupted else str(raised) or type(raised).__name__
        self._manifest["wall-seconds"] = round(time.perf_counter() - self._started, 3)
        self._manifest["final"] = {
            k: v for k, v in self._last.items() if k not in ("seconds", "failure-reasons")
        }
        self._write_manifest()

    def _write_manifest(self) -> None:
        self._write("manifest.json", json.dumps(self._manifest, indent=2).encode() + b"\n")

    def _write(self, name: str, content: bytes) -> None:
        draft = self.path / f".{name}.draft"
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path / name)


def _manifest(experiment: Experiment, data_sha256: str) -> dict[str, Any]:
    return {
        "status": "running",
        "kind": "experiment",
        "name": experiment.name,
        "seed": experiment.seed,
        "data-sha256": data_sha256,
        **provenance(),
        "epsilon": {},  # no privacy mechanism, no epsilon
    }


def provenance() -> dict[str, Any]:
    """Return what a manifest says of any run: with which code, where and when."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "host": {"system": platform.platform(), "machine": platform.machine(), "cores": cores()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return fedsim's own commit where it runs from a checkout, with `+` where that has changed since."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
