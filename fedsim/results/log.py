"""`log.txt`: a process's output while it runs a user's code."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Log:
    """A growing text file with a time (UTC) on each line, readable while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace")
        self._lock = threading.Lock()
        self._line_begins = True

    def write(self, text: str) -> None:
        """Add a text, without the colours of a terminal."""
        with self._lock:
            for line in COLOUR.sub("", text).splitlines(keepends=True):
                stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} " if self._line_begins else ""
                self._file.write(stamp + line)
                self._line_begins = line.endswith("\n")
            self._file.flush()

    def close(self) -> None:
        """End the file."""
        with self._lock:
            self._file.close()


@contextmanager
def recording(path: Path, silent: bool) -> Iterator[Log]:
    """Copy this process's output inside the block to a file, or redirect it there if `silent`.

    This covers what reaches stdout and stderr through Python: Flower's log lines, logging, warnings and prints.
    """
    from fedsim.flower.log import set_console

    log = Log(path)
    streams = [stream for stream in dict.fromkeys((sys.stdout, sys.stderr)) if stream is not None]
    writers = [stream.write for stream in streams]
    flowers = set_console(sys.stderr)
    for stream, writer in zip(streams, writers, strict=True):
        stream.write = _both(stream, writer, log, silent)  # type: ignore[method-assign]
    try:
        yield log
    finally:
        for stream, writer in zip(streams, writers, strict=True):
            stream.write = writer  # type: ignore[method-assign]
        if flowers is not None:
            set_console(flowers)
        log.close()


def _both(stream: TextIO, write: Callable[[str], int], log: Log, silent: bool) -> Callable[[str], int]:
    """Return a `write` that also writes to the log; as the stream's method it serves handlers of the stream, too."""

    def write_both(text: str) -> int:
        log.write(text)
        if silent:
            return len(text)
        written = write(text)
        stream.flush()
        return written

    return write_both
