"""Runs a sweep in parallel: persistent worker processes, each with one run at a time, and their messages."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from fedsim.errors import RunFailed
from fedsim.results.files import open_file
from fedsim.runtime.local import KEEP_MEMORY, ONE_THREAD
from fedsim.sweeps.state import State

STARTS = 3  # workers in a row that may end before they are ready


@dataclass(frozen=True)
class Order:
    """A run for a worker.

    Attributes:
        path: Its directory.
        toml: The experiment, including every default.
        until: The round after which it pauses; None: it runs to its end.
        trackers: A pickled list of `Tracker`; empty: none.
    """

    name: str
    path: Path
    toml: str
    until: int | None = None
    trackers: bytes = b""


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its modules."""


@dataclass(frozen=True)
class Started:
    """A run begins; `done` of `rounds` rounds were made before."""

    rounds: int
    done: int


@dataclass(frozen=True)
class RoundDone:
    """A round has ended."""

    row: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """A run has ended."""

    state: State
    reason: str = ""


OnMessage = Callable[[Order, Started | RoundDone | Ended], None]


class WorkerProcess:
    """A worker process, its current run, and whether it is ready."""

    def __init__(self, log: IO[bytes]) -> None:
        self.order: Order | None = None
        self.ready = False
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedsim.sweeps.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=KEEP_MEMORY | os.environ | ONE_THREAD | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._connection = Connection(ours.detach())

    def fileno(self) -> int:
        """Return the descriptor to wait on for its messages."""
        return self._connection.fileno()

    def give(self, order: Order) -> None:
        """Give it a run; if it has died, `hear` reports it."""
        self.order = order
        with contextlib.suppress(OSError):
            self._connection.send(order)

    def hear(self) -> Ready | Started | RoundDone | Ended | None:
        """Return its message; None: it is dead."""
        try:
            said: Ready | Started | RoundDone | Ended = self._connection.recv()
        except (EOFError, OSError):
            return None
        return said

    def stop(self) -> int:
        """End the process, and return its exit code."""
        self.process.kill()
        self._connection.close()
        return self.process.wait()


class Pool:
    """Workers, and a queue of runs.

    Args:
        orders: The runs, in the order in which they begin.
        workers: Most runs at the same time, at least 1.
        log: File for the workers' output.
        on_message: Called with each message of a run.
    """

    def __init__(self, orders: Sequence[Order], workers: int, log: Path, on_message: OnMessage) -> None:
        self._waiting = deque(orders)
        self._most = workers
        self._log = log
        self._on_message = on_message
        self._workers: list[WorkerProcess] = []
        self._failed_starts = 0
        self._stopping = False

    def add(self, orders: Sequence[Order]) -> None:
        """Add runs, which begin before waiting ones; `on_message` may call this."""
        self._waiting.extendleft(reversed(orders))

    def play(self) -> None:
        """Run all runs, or, after `stop_after_round`, the current ones to the end of their rounds.

        Raises:
            RunFailed: Workers can't be started.
        """
        with os.fdopen(open_file(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as log:
            try:
                self._hand_out(log)
                while busy := [worker for worker in self._workers if worker.order is not None]:
                    everyone: list[Any] = list(busy)
                    for worker in wait(everyone):
                        if isinstance(worker, WorkerProcess) and not self._hear(worker):
                            self._remove(worker)
                    self._hand_out(log)
            finally:
                for each in self._workers:
                    each.stop()

    def stop_after_round(self) -> None:
        """Begin no more runs, and end the current ones after their rounds; a signal handler may call this."""
        self._stopping = True
        for worker in self._workers:
            if worker.order is not None and worker.process.poll() is None:
                worker.process.terminate()

    def _hand_out(self, log: IO[bytes]) -> None:
        """Give waiting runs to idle and new workers."""
        while self._waiting and not self._stopping:
            idle = next((worker for worker in self._workers if worker.order is None), None)
            if idle is None:
                if len(self._workers) == self._most:
                    return
                idle = WorkerProcess(log)
                self._workers.append(idle)
            idle.give(self._waiting.popleft())

    def _hear(self, worker: WorkerProcess) -> bool:
        """Pass on a worker's message; return whether it lives."""
        said, order = worker.hear(), worker.order
        if isinstance(said, Ready):
            worker.ready, self._failed_starts = True, 0
        elif said is not None and order is not None:
            if isinstance(said, Ended):
                worker.order = None
            self._on_message(order, said)
        return said is not None

    def _remove(self, worker: WorkerProcess) -> None:
        """Remove a dead worker; its run has failed, if it had one."""
        code, order = worker.stop(), worker.order
        self._workers.remove(worker)
        if order is not None and (self._stopping or not worker.ready):
            self._waiting.appendleft(order)
        elif order is not None:
            self._on_message(order, Ended(State.FAILED, f"its worker process ended with {code}"))
        if not worker.ready and not self._stopping:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise RunFailed(f"worker process ended with {code} before it was ready; see {self._log}")
