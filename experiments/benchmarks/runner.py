"""Runs a competitor once, in its own process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedsim.experiments.benchmarks.competitors import Competitor, Unavailable
from fedsim.experiments.benchmarks.work import Report, Work

TIMEOUT = 1800.0  # seconds until a competitor has failed


@dataclass(frozen=True)
class Outcome:
    """Outcome of one run.

    Attributes:
        name: The competitor's name.
        repeat: Index of its run, from 0.
        reason: Why there is no report; None if there is one.
        report: The competitor's report.
        start: Seconds from the start of the process to the beginning of the first round.
    """

    name: str
    repeat: int
    reason: str | None = None
    report: Report | None = None
    start: float = 0.0


def run(
    competitor: Competitor,
    work: Work,
    path: Path,
    repeat: int = 0,
    watch: Callable[[int], None] = lambda pid: None,
) -> Outcome:
    """Run a competitor on the work of a file and return its outcome, also if it fails.

    Args:
        competitor: The competitor.
        work: The work.
        path: The work's file.
        repeat: Recorded in the outcome.
        watch: Called with the process's id once it runs, and every fifth of a second.
    """
    report = work.folder / f"{competitor.name}.report.json"
    report.unlink(missing_ok=True)
    try:
        command = competitor.command(path, report)
    except Unavailable as unavailable:
        return Outcome(competitor.name, repeat, f"skipped: {unavailable}")
    environment = {**os.environ, "FEDSIM_CACHE": str(work.folder / "cache"), **competitor.environment}
    log = work.folder / f"{competitor.name}.log"
    spawned = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=work.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it ends with all its children
        )
        code = _wait(process, watch)
    if code != 0 or not report.exists():
        how = "took too long" if code is None else f"ended with {code}"
        return Outcome(competitor.name, repeat, f"failed: {_last_line(log) or how}")
    said = Report.load(report)
    return Outcome(competitor.name, repeat, None, said, said.began - spawned)


def _wait(process: subprocess.Popen[bytes], watch: Callable[[int], None]) -> int | None:
    """Wait for a process and return its exit code, None if it took too long; its children end with it."""
    end = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < end:
            watch(process.pid)
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10.0)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
