"""A run's private log, to which any of its processes adds lines: what must not be printed where noise is real.

It is `private/log.txt` of the run directory. A process that does not write that directory is told the path.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

KEY = "private-log"  # in the run config of simulated clients: the path


def note(log: str | Path, text: str) -> None:
    """Add a text to a log that is there, each line with its time (UTC); nothing is said where that can't be done.

    A log on a disk that is full, or out of this machine's reach, must not end a run.
    """
    stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} "
    lines = "".join(f"{stamp}{line}\n" for line in text.splitlines())
    with suppress(OSError):
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(
                file, lines.encode("utf-8", "backslashreplace")
            )  # one write: no other line comes between
        finally:
            os.close(file)
