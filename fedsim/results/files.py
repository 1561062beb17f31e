"""Files that a kill can't spoil: whole ones appear at once, growing ones grow by a synced line."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import Refused

DRAFT = ".fedsim-draft-"
STALE = 3600.0  # seconds after which a draft must be a leftover of a kill


@contextmanager
def drafted(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Have a file written so that its name has either its former content or all of the new one.

    Yields the path of a draft beside it, for the block to write; it is then synced and renamed. A leftover draft is
    overwritten by the next.

    Args:
        path: The file.
        private: Whether only its owner may read it. The draft is private from the beginning, if the block writes into
            it or replaces it by a private file.
    """
    draft = path.with_name(f".{path.name}.draft")
    if private:
        draft.unlink(missing_ok=True)
        create_private(draft)
    yield draft
    if private:
        draft.chmod(0o600)
    _sync(draft, os.O_RDWR)
    draft.rename(path)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file at once, as `drafted` does."""
    with drafted(path, private=private) as draft:
        draft.write_bytes(content)


def create_private(path: Path) -> None:
    """Make an empty file that only its owner may read and write, whatever the umask; an existing one stays."""
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)  # the umask may have taken the owner's own rights
        finally:
            os.close(file)


def make_private_folder(path: Path) -> None:
    """Make a folder for its owner only, whatever the umask; an existing one stays as it is."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
        path.chmod(0o700)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def drafted_folder(path: Path, option: str) -> Iterator[Path]:
    """Have a folder made under another name and renamed, so that a kill leaves none or a complete one.

    Its parents are made, too. An `OSError` of the block, or of this, becomes a `Refused` that begins with `option`.
    """
    draft = path.absolute().parent / f"{DRAFT}{secrets.token_hex(16)}"
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(path)
        sync_folder(draft.parent)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise Refused(f"{option} {str(path)!r}: {error.strerror}") from None
        raise


def sweep_drafts(folder: Path) -> None:
    """Remove drafts of folders left by kills."""
    for draft in folder.glob(f"{DRAFT}*"):
        with suppress(OSError):  # another process was faster
            if time.time() - draft.stat().st_mtime > STALE:
                shutil.rmtree(draft)


def json_document(tree: Mapping[str, Any]) -> bytes:
    """Return a manifest's content: indented JSON."""
    return json.dumps(tree, indent=2).encode() + b"\n"


def rows_in(content: bytes) -> list[dict[str, Any]]:
    """Return the lines of JSON in a file's content, except a last one that is incomplete."""
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@dataclass(frozen=True)
class Position:
    """Position in a file of lines."""

    bytes: int
    lines: int


START = Position(0, 0)


class LineFile:
    """A file of JSON objects, one a line, that grows by a synced line at a time.

    Attributes:
        position: The end, as far as this object has written or been told.
    """

    def __init__(self, path: Path, position: Position = START) -> None:
        self.path = path
        self.position = position

    def append(self, value: dict[str, Any]) -> None:
        """Append a line; raises `ValueError` for NaN and infinity, which JSON lacks."""
        self.extend([value])

    def extend(self, values: Sequence[dict[str, Any]]) -> None:
        """Append lines, synced once; raises as `append`."""
        if not values:
            return
        lines = b"".join(json.dumps(value, allow_nan=False).encode() + b"\n" for value in values)
        with self.path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.position = Position(self.position.bytes + len(lines), self.position.lines + len(values))

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines to the position; raises `Refused` for a missing, shorter or damaged file."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self.position.bytes:
            raise Refused(
                f"{self.path.name}: has {size} bytes; the checkpoint was made at {self.position.bytes}, "
                "so lines are missing"
            )
        with self.path.open("rb") as file:
            content = file.read(self.position.bytes)
        try:
            rows = rows_in(content)
        except ValueError:
            rows = []
        if content.rpartition(b"\n")[2] or len(rows) != self.position.lines:
            raise Refused(
                f"{self.path.name}: was changed; its first {self.position.bytes} bytes must be "
                f"{self.position.lines} rows of JSON"
            )
        return rows

    def news(self) -> list[dict[str, Any]]:
        """Move the position past the last whole line, and return the lines that it passes; raises `ValueError`."""
        with self.path.open("rb") as file:
            file.seek(self.position.bytes)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.position = Position(self.position.bytes + len(whole), self.position.lines + whole.count(b"\n"))
        return rows_in(whole)

    def cut(self) -> None:
        """Cut off everything after the position: rounds without a checkpoint, or half a line."""
        with self.path.open("ab") as file:
            file.truncate(self.position.bytes)
            os.fsync(file.fileno())
