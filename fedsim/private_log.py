"""A run's private log, shared by its processes: lines that must not be printed with the operating system's noise.

It is `private/log.txt` of the run directory. Processes that don't write that directory receive the path.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

KEY = "private-log"  # in the run config of simulated clients: the path


def note(log: str | Path, text: str) -> None:
    """Append a text to an existing log, each line with its time (UTC); errors are ignored.

    A log on a full or unreachable disk must not end a run.
    """
    stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} "
    lines = "".join(f"{stamp}{line}\n" for line in text.splitlines())
    with suppress(OSError):
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.write(
                file, lines.encode("utf-8", "backslashreplace")
            )  # one write, so that lines of other processes don't interleave
        finally:
            os.close(file)
