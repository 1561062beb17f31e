"""Playing the runs of a sweep side by side: worker processes that stay, each with one run at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from fedsim.errors import RunFailed
from fedsim.runtime.local import KEEP_MEMORY, ONE_THREAD
from fedsim.sweeps.messages import Ended, Order, Ready, RoundDone, Started
from fedsim.sweeps.state import State

STARTS = 3  # workers in a row that may end before they are ready
OnMessage = Callable[[Order, Started | RoundDone | Ended], None]


class Player:
    """A worker process.

    Attributes:
        order: The run that it plays.
        ready: Whether it has loaded what it needs.
    """

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
        """Return what to wait on until it says something."""
        return self._connection.fileno()

    def give(self, order: Order) -> None:
        """Hand it a run; if it has died, `hear` finds out."""
        self.order = order
        with contextlib.suppress(OSError):
            self._connection.send(order)

    def hear(self) -> Ready | Started | RoundDone | Ended | None:
        """Return what it says; None: it is dead."""
        try:
            said: Ready | Started | RoundDone | Ended = self._connection.recv()
        except (EOFError, OSError):
            return None
        return said

    def stop(self) -> int:
        """End the process, and return how it has ended."""
        self.process.kill()
        self._connection.close()
        return self.process.wait()


class Pool:
    """Some workers, and the runs that wait for one.

    Args:
        orders: The runs, in the order in which they begin.
        workers: How many runs go on at the same time, at most; at least 1.
        log: A file to which workers' output is added.
        on_message: Called with what is on_message of a run.
    """

    def __init__(self, orders: Sequence[Order], workers: int, log: Path, on_message: OnMessage) -> None:
        self._waiting = deque(orders)
        self._workers = workers
        self._log = log
        self._on_message = on_message
        self._players: list[Player] = []
        self._failed_starts = 0
        self._stopping = False

    def add(self, orders: Sequence[Order]) -> None:
        """Take more runs, which begin before those that wait; `on_message` may call this."""
        self._waiting.extendleft(reversed(orders))

    def play(self) -> None:
        """Play all runs, or, once `stop_after_round` was called, those that are under way to the end of a round.

        Raises:
            RunFailed: Workers can't be started.
        """
        with self._log.open("ab") as log, self._ending():
            self._hand_out(log)
            while busy := [player for player in self._players if player.order is not None]:
                everyone: list[Any] = list(busy)
                for player in wait(everyone):
                    if isinstance(player, Player) and not self._hear(player):
                        self._remove(player)
                self._hand_out(log)

    def stop_after_round(self) -> None:
        """Begin no more runs, and end those under way after their rounds; may be called by a signal's handler."""
        self._stopping = True
        for player in self._players:
            if player.order is not None and player.process.poll() is None:
                player.process.terminate()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        finally:
            for player in self._players:
                player.stop()

    def _hand_out(self, log: IO[bytes]) -> None:
        """Give runs that wait to workers without one, and to new workers."""
        while self._waiting and not self._stopping:
            idle = next((player for player in self._players if player.order is None), None)
            if idle is None:
                if len(self._players) == self._workers:
                    return
                idle = Player(log)
                self._players.append(idle)
            idle.give(self._waiting.popleft())

    def _hear(self, player: Player) -> bool:
        """Pass on what a worker says; returns whether it lives."""
        said, order = player.hear(), player.order
        if isinstance(said, Ready):
            player.ready, self._failed_starts = True, 0
        elif said is not None and order is not None:
            if isinstance(said, Ended):
                player.order = None
            self._on_message(order, said)
        return said is not None

    def _remove(self, player: Player) -> None:
        """Take away a dead worker, whose run has failed, or never begun."""
        code, order = player.stop(), player.order
        self._players.remove(player)
        if order is not None and (self._stopping or not player.ready):
            self._waiting.appendleft(order)
        elif order is not None:
            self._on_message(order, Ended(State.FAILED, f"its worker process ended with {code}"))
        if not player.ready and not self._stopping:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise RunFailed(f"worker process ended with {code} before it was ready; see {self._log}")
