"""Processes in sessions of their own, and their end."""

import os
import signal
import subprocess
from pathlib import Path

from tests.support.waiting import wait_for

FINE = 0.002  # seconds between two looks: for a kill at a moment that a test has chosen


def kill_session(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started, and see them gone."""
    for pid in session(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not session(process.pid))


def session(leader: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z" and int(fields[3]) == leader:
            found.append(int(folder.name))
    return found
