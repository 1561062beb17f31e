"""Files that a kill can't spoil: whole ones appear at once, growing ones grow by a synced line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedsim.errors import Refused, reason

DRAFT = ".fedsim-draft-"
MOST_OF_A_REASON = 200  # characters
STALE = 3600.0  # seconds after which a draft must be a leftover of a kill


@contextmanager
def drafted(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Have a file written so that its name has either its former content or all of the new one.

    Yields the path of a draft beside it, a new empty file with a name that nobody can foresee, for the block to write; it
    is then synced and renamed. `remove_drafts` removes what a kill leaves.

    Args:
        path: The file.
        private: Whether only its owner may read it. The draft is private from the beginning, if the block writes into
            it or replaces it by a private file.
    """
    draft = path.with_name(f".{path.name}.draft-{secrets.token_hex(8)}")
    if private:
        create_private(draft)
    else:
        os.close(open_file(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    try:
        yield draft
        if private:
            draft.chmod(0o600)
        _sync(draft, os.O_RDWR)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_drafts(*folders: Path) -> None:
    """Remove drafts of files left by kills, from folders that only this process writes."""
    for folder in folders:
        for draft in folder.glob(".*.draft*"):
            with suppress(OSError):
                draft.unlink()


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a regular file, and return its descriptor, which child programs don't inherit.

    A symbolic link in its place is followed for reading, but never for writing.

    Raises:
        Refused: There is a FIFO, a device or a folder, or, for writing, a symbolic link.
        OSError: It can't be opened.
    """
    if flags & (os.O_WRONLY | os.O_RDWR):
        flags |= os.O_NOFOLLOW
    try:
        file = os.open(
            path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode
        )  # a FIFO would wait for its other end
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _no_file(path)
    return file


def check_file(path: Path) -> bool:
    """Return whether there is a regular file, for others to open and write; raises `Refused` for anything else there."""
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
    if not regular:
        raise _no_file(path)
    return True


def check_folder(path: Path) -> None:
    """Raise `Refused` if there is something else than a folder, or a symbolic link to one."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise Refused(f"{str(path)!r}: is {_kind(path)}; a folder is needed, which fedsim makes itself")


def read_file(path: Path, most: int = -1) -> bytes:
    """Return a regular file's first bytes (-1: all); raises as `open_file`."""
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        return file.read(most)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises `OSError`, and `Refused` if it is damaged, or as `open_file`."""
    with unless_damaged(path):
        tree = json.loads(read_file(path))
        if not isinstance(tree, dict):
            raise TypeError("it is no JSON object")
        return tree


@contextmanager
def unless_damaged(path: Path) -> Iterator[None]:
    """Turn what the block raises at a file's or a directory's content into `Refused` with its path; `OSError` passes."""
    try:
        yield
    except (Refused, OSError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Refused(f"{str(path)!r}: is damaged ({reason(error)[:MOST_OF_A_REASON]})") from None


def check_types(tree: Mapping[str, Any], types: Mapping[str, Sequence[type]]) -> None:
    """Raise `TypeError` for a value of another type than the listed ones; missing and unlisted keys are allowed."""
    for key, value in tree.items():
        if key in types and type(value) not in types[key]:
            raise TypeError(f"{key} is of another type")


def _no_file(path: Path) -> Refused:
    return Refused(f"{str(path)!r}: is {_kind(path)}; a file is needed")


def _kind(path: Path) -> str:
    """Name what is at a path."""
    mode = path.lstat().st_mode
    kinds = {
        "a symbolic link": stat.S_ISLNK,
        "a folder": stat.S_ISDIR,
        "a FIFO": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a file": stat.S_ISREG,
    }
    return next((name for name, is_one in kinds.items() if is_one(mode)), "a device")


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
    """Return the JSON objects in a file's lines, except a last one that is incomplete; raises `ValueError` for others."""
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: is no JSON object")
        rows.append(row)
    return rows


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, as `rows_in`; raises `OSError`, and `Refused` if it is damaged, or as `open_file`."""
    with unless_damaged(path):
        return rows_in(read_file(path))


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@dataclass(frozen=True)
class Position:
    """Position in a file of lines.

    Attributes:
        sha256: Hash of the bytes before it; empty: noted by a version of fedsim that kept none.
    """

    bytes: int
    lines: int
    sha256: str = ""


START = Position(0, 0)


class LineFile:
    """A file of JSON objects, one a line, that grows by a synced line at a time.

    Where it begins at another position than the start, `rows` must be called before it grows.

    Attributes:
        position: The end, as far as this object has written or been told.
    """

    def __init__(self, path: Path, position: Position = START) -> None:
        self.path = path
        self.position = position
        self._digest = hashlib.sha256()  # of the bytes before the position

    def append(self, value: dict[str, Any]) -> None:
        """Append a line; raises `ValueError` for NaN and infinity, which JSON lacks."""
        self.extend([value])

    def extend(self, values: Sequence[dict[str, Any]]) -> None:
        """Append lines, synced once; raises as `append`."""
        if not values:
            return
        lines = b"".join(json.dumps(value, allow_nan=False).encode() + b"\n" for value in values)
        with self._appending() as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._move(lines)

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines to the position; raises `Refused` for a missing, shorter, changed or damaged file."""
        content = b""
        with suppress(FileNotFoundError):
            content = read_file(self.path, self.position.bytes)
        if len(content) < self.position.bytes:
            raise Refused(
                f"{self.path.name}: has {len(content)} bytes; the checkpoint was made at {self.position.bytes}, "
                "so lines are missing"
            )
        self._digest = hashlib.sha256(content)
        if self.position.sha256 and self._digest.hexdigest() != self.position.sha256:
            raise Refused(
                f"{self.path.name}: was changed; its first {self.position.bytes} bytes are not those that the checkpoint was "
                "made with"
            )
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
        with os.fdopen(open_file(self.path, os.O_RDONLY), "rb") as file:
            file.seek(self.position.bytes)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._move(whole)
        return rows_in(whole)

    def cut(self) -> None:
        """Cut off everything after the position: rounds without a checkpoint, or half a line."""
        with self._appending() as file:
            file.truncate(self.position.bytes)
            os.fsync(file.fileno())

    def _appending(self) -> BinaryIO:
        return os.fdopen(open_file(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")

    def _move(self, lines: bytes) -> None:
        """Move the position past some lines."""
        self._digest.update(lines)
        self.position = Position(
            self.position.bytes + len(lines),
            self.position.lines + lines.count(b"\n"),
            self._digest.hexdigest(),
        )
