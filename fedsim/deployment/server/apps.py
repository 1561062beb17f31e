"""What a server shares with its ServerApps: environment variables, files of its state directory, and its log.

Flower discards the output of the ServerApps that it starts. So they append their log lines to a file, from which the server
copies them to its own log.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

# Environment variables:
STATE = "FEDSIM_DEPLOYED"  # the server's state directory
KEYS = "FEDSIM_KEYS"  # the folder of the server's keys; empty: none
LOOPBACK = "FEDSIM_LOOPBACK"  # empty unless the server can be reached from its own machine only
# Files of the state directory:
APP_LOG = "apps.log"  # the log lines of ServerApps
CLIENTS = "clients.json"  # the node of each registered client

FORMAT = "%(asctime)s %(levelname)s %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
LEVELS = {"fedsim": logging.INFO, "flwr": logging.WARNING}  # of a ServerApp's loggers


def log_to(file: Path, run: str) -> None:
    """Have this process, a ServerApp of a run, append its log lines to the file."""
    handler = logging.FileHandler(file)
    text = FORMAT.replace("%(message)s", f"run {run}: %(message)s")
    handler.setFormatter(logging.Formatter(text, TIME_FORMAT))
    for name, level in LEVELS.items():
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(min(level, logger.level or level))


class AppLog:
    """Reads ServerApps' log lines from a file, which is emptied at first."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(b"")
        self._stream = file.open("rb")
        self._half = b""

    def copy_lines(self) -> None:
        """Write the lines that are new to the server's log (stderr)."""
        *lines, self._half = (self._half + self._stream.read()).split(b"\n")
        for line in lines:
            sys.stderr.write(line.decode("utf-8", "replace") + "\n")

    def close(self) -> None:
        """Write the last lines, and close the file."""
        self.copy_lines()
        self._stream.close()
