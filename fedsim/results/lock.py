"""A lock by which only one process at a time writes a run directory.

It is a kernel lock on an open file (`flock`) that ends with the process, so a killed run leaves none behind. Child
programs don't inherit it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

from fedsim.errors import Refused
from fedsim.results.files import open_file

log = logging.getLogger(__name__)

NAME = ".lock"
# A reader that tests the lock holds it for an instant; taking it waits for that.
ATTEMPTS, PAUSE = 10, 0.02
# Some network file systems have no locks; runs there are unguarded.
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Held(Refused):
    """Another process (or another part of this one) writes there."""


class Lock:
    """The right to write a run directory, until `release` or the end of the process.

    Raises:
        Held: Another process (or another part of this one) holds it.
        Refused: In the place of its file there is something else.
        OSError: The folder can't be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._file = open_file(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(self._file, folder)
        except BaseException:
            os.close(self._file)
            raise
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others write."""
        os.close(self._file)


def _take(file: int, folder: Path) -> None:
    for _ in range(ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE)
            continue
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            log.warning("%s: this file system has no locks; let one process at a time write there", folder)
        return
    raise _refusal(folder)


def refuse_if_held(folder: Path) -> None:
    """Raise `Refused` for a run directory that a process writes."""
    if is_held(folder):
        raise _refusal(folder)


def _refusal(folder: Path) -> Held:
    holder = (folder / NAME).read_text(errors="replace").strip()
    return Held(f"run {str(folder)!r}: process {holder} is writing it; one at a time")


def is_held(folder: Path) -> bool | None:
    """Return whether a process writes a run directory; None if unknown."""
    try:
        file = open_file(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW)
    except (OSError, Refused):
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False
