"""Child processes that end together with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from fedsim.interruption import SIGNALS

GRACE = 15.0  # seconds for a process to end when it is told to


@dataclass(frozen=True)
class Child:
    """A `fedsim` process.

    Attributes:
        name: Its name in messages.
        process: The process. It leads a process group of its own, so that Ctrl-C in the terminal doesn't reach it.
        log: The file of its output.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def lines(self) -> list[str]:
        """Its output so far."""
        return self.log.read_text(errors="replace").splitlines()

    @property
    def end(self) -> str | None:
        """Its exit code and last line of output, as a message; None while it runs."""
        if (code := self.process.poll()) is None:
            return None
        last = next((line.strip() for line in reversed(self.lines) if line.strip()), "it said nothing")
        return f"{self.name} ended with {code}: {last}"


@dataclass
class Children:
    """Child processes, started one by one; leaving the context manager ends all of them.

    If this process is killed, they notice it (`--parent-pid`) and end by themselves.

    Attributes:
        logs: The folder of their output.
        started: All of them, in the order in which they were started.
    """

    logs: Path
    started: list[Child] = field(default_factory=list)

    def start(self, name: str, *arguments: str) -> Child:
        """Start `fedsim` with arguments."""
        command = [sys.executable, "-P", "-m", "fedsim.cli", *arguments, "--parent-pid", str(os.getpid())]
        log = self.logs / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.started.append(child)
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        before = signal.pthread_sigmask(
            signal.SIG_BLOCK, SIGNALS
        )  # a second Ctrl-C must leave no process behind
        try:
            self._end()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _end(self) -> None:
        for child in self.started:
            child.process.terminate()
        deadline = time.monotonic() + GRACE
        for child in self.started:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(deadline - time.monotonic(), 0.0))
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)  # and the rest of its group
            child.process.wait()
