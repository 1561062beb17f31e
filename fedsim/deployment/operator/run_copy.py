"""The caller's copy of a run directory that a server writes.

While the run goes on its rows and events are added as they come; when it has ended every file is there that may be: no
checkpoint, and nothing private. The copy's manifest says besides where the run is.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from fedsim.errors import Refused
from fedsim.results.directory import DRAFT, check_free
from fedsim.results.disclosure import EXPERIMENT, LEDGER, MANIFEST, METRICS, may_be_copied
from fedsim.results.files import drafted, sync_folder, write_whole
from fedsim.results.lock import NAME as LOCK
from fedsim.results.lock import Lock

GROWING = (METRICS, LEDGER)
DEPLOYMENT = "deployment"  # the manifest's key that says where the run is
FIRST = (EXPERIMENT, *GROWING)  # what a run directory holds from its beginning


@dataclass(frozen=True)
class Listing:
    """What a run directory at a server holds: its manifest, and each file's size in bytes."""

    manifest: dict[str, Any]
    files: dict[str, int]


class Fetch(Protocol):
    """Gets a file of the run directory."""

    def __call__(self, file: str, offset: int, into: BinaryIO) -> None:
        """Write its bytes from `offset` on into a file that is open."""


class RunCopy:
    """A copy being written, by this process alone; as a context manager it lets go of it when the block ends.

    Attributes:
        path: The copy.
        rows: The rows of its `metrics.jsonl`.
    """

    def __init__(self, path: Path, deployment: Mapping[str, Any], fetch: Fetch) -> None:
        """Begin, or go on with the copy that is there.

        Args:
            path: A new directory, or a copy of the same run.
            deployment: What the manifest says of where the run is; `run` is its name there.
            fetch: Gets its files.

        Raises:
            Refused: The path is something else, can't be written, or another process writes it.
        """
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._deployment, self._fetch = dict(deployment), fetch
        self._sessions: int | None = None  # of the run, as of which the growing files are
        self._lock: Lock | None = None
        if not path.exists():
            check_free(path)
            return
        if deployment_of(path).get("run") != deployment["run"]:
            raise Refused(f"--out {str(path)!r}: exists, and is no copy of run {deployment['run']}")
        self._lock = Lock(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            (self.path / LOCK).unlink(
                missing_ok=True
            )  # with it the copy of a run that goes on would seem killed
            self._lock.release()

    @property
    def has_begun(self) -> bool:
        """Whether the copy is there."""
        return self._lock is not None

    @property
    def rounds(self) -> int:
        """Rounds that the experiment has at most."""
        return int(tomllib.loads((self.path / "experiment.toml").read_text(encoding="utf-8"))["rounds"])

    def update(self, listing: Listing) -> None:
        """Bring the manifest, the rows and the events up to what the server has."""
        if self._lock is None:
            self._begin(listing)
        else:
            self._fill(self.path, listing)

    def complete(self, listing: Listing, status: str, error: str | None) -> None:
        """Copy every file of a run that has ended that may be (`fedsim.results.disclosure`).

        Args:
            listing: The run's, since it has ended.
            status: How it has: the manifest of a ServerApp that was killed says that it is running.
            error: Why, if not well.
        """
        self.update(listing)
        for name in listing.files:
            if name not in (*GROWING, MANIFEST) and may_be_copied(name, listing.manifest.get("noise")):
                self._whole(name)
        ended = {**listing.manifest, "status": status} | ({} if error is None else {"error": error})
        self._write_manifest(self.path, ended)

    def _begin(self, listing: Listing) -> None:
        """Make the copy under another name and rename it: a kill leaves none, or one that is good."""
        draft = self.path.parent / f"{DRAFT}{secrets.token_hex(16)}"
        lock = None
        try:
            draft.mkdir(parents=True)
            lock = Lock(draft)
            self._fill(draft, listing)
            draft.rename(self.path)
            sync_folder(self.path.parent)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if lock is not None:
                lock.release()
            if isinstance(error, OSError):
                raise Refused(f"--out {str(self.path)!r}: {error.strerror}") from None
            raise
        self._lock = lock

    def _fill(self, folder: Path, listing: Listing) -> None:
        sessions = len(listing.manifest.get("resumed", ()))
        for name in FIRST:
            if name not in listing.files or not may_be_copied(name, listing.manifest.get("noise")):
                continue
            if name in GROWING:
                self._grow(folder / name, afresh=sessions != self._sessions)  # resumed, it is cut first
            elif not (folder / name).exists():
                self._whole(name, folder)
        self._sessions = sessions
        self._write_manifest(folder, listing.manifest)

    def _grow(self, path: Path, *, afresh: bool) -> None:
        """Add the lines that are new and whole, or write all of them."""
        content = io.BytesIO()
        afresh = afresh or not path.exists()
        self._fetch(path.name, 0 if afresh else path.stat().st_size, content)
        lines = content.getvalue()[: content.getvalue().rfind(b"\n") + 1]
        if afresh:
            write_whole(path, lines)
        elif lines:
            with path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        if path.name == METRICS:
            news = [json.loads(line) for line in lines.splitlines()]
            self.rows = news if afresh else self.rows + news

    def _whole(self, name: str, folder: Path | None = None) -> None:
        path = (folder or self.path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with drafted(path) as draft, draft.open("wb") as file:
            self._fetch(name, 0, file)

    def _write_manifest(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        tree = {**manifest, DEPLOYMENT: self._deployment}
        write_whole(folder / MANIFEST, json.dumps(tree, indent=2).encode() + b"\n")


def deployment_of(path: Path) -> dict[str, Any]:
    """Return where the run of a copy is; empty for what is no copy."""
    with suppress(OSError, ValueError, AttributeError):
        return dict(json.loads((path / MANIFEST).read_bytes()).get(DEPLOYMENT, {}))
    return {}
