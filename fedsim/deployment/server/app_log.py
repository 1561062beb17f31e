"""What ServerApps have to say, in the server's log: Flower lets their output go nowhere.

They append lines to a file in the server's state directory, and the server passes these on.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

FORM = "%(asctime)s %(levelname)s %(message)s"
TIME = "%Y-%m-%d %H:%M:%S"
HEARD = {"fedsim": logging.INFO, "flwr": logging.WARNING}  # loggers of a ServerApp


def speak(file: Path, run: str) -> None:
    """Have this process, a ServerApp of a run, write its log to the server's."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter(FORM.replace("%(message)s", f"run {run}: %(message)s"), TIME))
    for name, level in HEARD.items():
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(min(level, logger.level or level))


class AppLog:
    """The server's end of it.

    Args:
        file: Made empty.
    """

    def __init__(self, file: Path) -> None:
        file.write_bytes(b"")
        self._stream = file.open("rb")
        self._half = b""

    def pass_on(self) -> None:
        """Write the lines that have come to the server's own log."""
        lines = (self._half + self._stream.read()).split(b"\n")
        self._half = lines.pop()
        for line in lines:
            sys.stderr.write(line.decode("utf-8", "replace") + "\n")

    def close(self) -> None:
        """Pass on what is left."""
        self.pass_on()
        self._stream.close()
