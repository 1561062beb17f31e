"""The operator's copy of a run directory that a server writes.

While it runs, new rows and events are added. When it has ended, all files are copied that may be: no checkpoint, and
nothing private. The copy's manifest also names the server and the run.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from fedsim.errors import Refused
from fedsim.results.directory import check_free
from fedsim.results.disclosure import EXPERIMENT, LEDGER, MANIFEST, METRICS, may_be_copied
from fedsim.results.files import DRAFT, drafted, open_file, remove_drafts, sync_folder, write_whole
from fedsim.results.lock import NAME as LOCK
from fedsim.results.lock import Lock

GROWING = (METRICS, LEDGER)
DEPLOYMENT = "deployment"  # the manifest's key of the server's address and the run's name and ids
FIRST = (EXPERIMENT, *GROWING)  # files that a run directory holds from its beginning


@dataclass(frozen=True)
class Listing:
    """A run directory at a server: its manifest, and the size of each file in bytes."""

    manifest: dict[str, Any]
    files: dict[str, int]

    @property
    def sessions(self) -> int:
        """How often the run has been resumed."""
        return len(self.manifest.get("resumed", ()))


Fetch = Callable[[str, int, BinaryIO], None]  # writes a file's bytes from an offset on into an open file


class RunCopy:
    """A copy that this process alone writes; leaving the context manager releases it."""

    def __init__(self, path: Path, deployment: Mapping[str, Any], fetch: Fetch) -> None:
        """Begin a copy in a new directory, or continue one of the same run.

        `deployment` is the value of that key in the copy's manifest; its `run` is the run's name.

        Raises:
            Refused: The path is no copy of this run, can't be written, or another process writes it.
        """
        self.path = path
        self.rows: list[dict[str, Any]] = []  # of its `metrics.jsonl`, so far
        self._deployment, self._fetch = dict(deployment), fetch
        self._sessions = -1  # how often the run had been resumed when the growing files were last read
        self._lock: Lock | None = None
        if not path.exists():
            check_free(path)
            return
        if deployment_of(path).get("run") != deployment["run"]:
            raise Refused(f"--out {str(path)!r}: exists, and is no copy of run {deployment['run']}")
        self._lock = Lock(path)
        remove_drafts(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._lock is not None:
            # With a lock file, a copy of a running run would look killed.
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.release()

    @property
    def has_begun(self) -> bool:
        """Whether the copy exists."""
        return self._lock is not None

    @property
    def rounds(self) -> int:
        """The experiment's number of rounds."""
        return int(tomllib.loads((self.path / "experiment.toml").read_text(encoding="utf-8"))["rounds"])

    def update(self, listing: Listing) -> None:
        """Update the manifest, the rows and the events to the server's."""
        if self._lock is None:
            self._begin(listing)
        else:
            self._fill(self.path, listing)

    def complete(self, listing: Listing, status: str, error: str | None) -> None:
        """Copy all files of a run that has ended that may be copied (`fedsim.results.disclosure`).

        The status is that of the run: the manifest of a ServerApp that was killed still has `running`.
        """
        self.update(listing)
        for name in listing.files:
            if name not in (*GROWING, MANIFEST) and may_be_copied(name, listing.manifest.get("noise")):
                self._whole(name)
        ended = {**listing.manifest, "status": status} | ({} if error is None else {"error": error})
        self._write_manifest(self.path, ended)

    def _begin(self, listing: Listing) -> None:
        """Make the copy under another name and rename it: a kill leaves a good copy or none."""
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
        for name in FIRST:
            if name not in listing.files or not may_be_copied(name, listing.manifest.get("noise")):
                continue
            if name in GROWING:  # a resumed run cuts these first
                self._grow(folder / name, afresh=listing.sessions != self._sessions)
            elif not (folder / name).exists():
                self._whole(name, folder)
        self._sessions = listing.sessions
        self._write_manifest(folder, listing.manifest)

    def _grow(self, path: Path, *, afresh: bool) -> None:
        """Append the new complete lines, or write all lines afresh."""
        content = io.BytesIO()
        afresh = afresh or not path.exists()
        self._fetch(path.name, 0 if afresh else path.stat().st_size, content)
        lines = content.getvalue()[: content.getvalue().rfind(b"\n") + 1]
        if afresh:
            write_whole(path, lines)
        elif lines:
            with os.fdopen(open_file(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
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
    """Return the manifest's `deployment` of a copy; empty: the path is no copy."""
    with suppress(OSError, ValueError, AttributeError):
        return dict(json.loads((path / MANIFEST).read_bytes()).get(DEPLOYMENT, {}))
    return {}
