"""The local engine: worker processes on this machine, with shared memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.arrays import Values
from fedsim.runtime.jobs import Job
from fedsim.runtime.pool import Died, Done, PoolGrid, Ready, Worker
from fedsim.runtime.sharing import Channel, Lender, Loan
from fedsim.runtime.spec import AppSpec

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# For glibc: temporary arrays reuse pages, large ones if available, instead of faulting them in again for each client.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class Process(Worker):
    """A worker process.

    A fresh interpreter, not a fork: PyTorch's threads don't survive a fork, and scripts and notebooks need no
    `if __name__ == "__main__"`.
    """

    def __init__(self, spec: AppSpec, lender: Lender) -> None:
        super().__init__()
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
        environment = KEEP_MEMORY | os.environ | ONE_THREAD | {"PYTHONPATH": path}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedsim.runtime.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self._lender = lender
        self._connection = Connection(ours.detach())
        self._channel = Channel(self._connection, lender)
        with contextlib.suppress(OSError):  # it has died, as `hear` finds out
            self._connection.send(spec)

    def fileno(self) -> int:
        """Return the descriptor to wait on for its messages."""
        return self._connection.fileno()

    def give(self, job: Job, shared: Loan | None, states: bytes, state_arrays: Sequence[Values]) -> None:
        """Give it a job; if it has died, `hear` reports it."""
        loan = self._lender.lend(state_arrays)
        with contextlib.suppress(OSError):
            self._channel.send(pickle.dumps((job, states)), shared, loan)
        self._lender.release(loan)

    def hear(self) -> Ready | Done | Died:
        """Return its message."""
        try:
            if not self.ready:
                return Ready(self._connection.recv())
            packed, (arrays,) = self._channel.receive()
        except (EOFError, OSError):
            self.process.kill()
            return Died(f"worker process ended with {self.process.wait()}")
        if self.ticket is not None and self.ticket.fold is None:
            # Replies may be many and long-lived, so they are copied out of shared memory.
            arrays = [np.array(values) for values in arrays]
        return Done(packed, arrays)

    def stop(self) -> None:
        """End the process."""
        self._channel.close()
        self.process.kill()
        self.process.wait()


class LocalGrid(PoolGrid):
    """Runs clients in worker processes; see `PoolGrid`."""

    def __init__(self, spec: AppSpec, workers: int) -> None:
        self._lender = Lender()
        self._bell, self._rope = socket.socketpair()
        super().__init__(spec, workers)

    def _start(self) -> Process:
        return Process(self.spec, self._lender)

    def _listen(self) -> Iterator[tuple[Worker, Ready | Done | Died]]:
        everyone: list[Any] = [self._bell, *self._workers]
        for who in wait(everyone):
            if isinstance(who, Process):
                yield who, who.hear()
            else:
                self._bell.recv(4096)

    def _ring(self) -> None:
        self._rope.send(b"\0")

    def _share(self, arrays: Sequence[Values]) -> Loan | None:
        return self._lender.lend(arrays)

    def _hold(self, shared: Loan | None) -> None:
        self._lender.hold(shared)

    def _release(self, shared: Loan | None) -> None:
        self._lender.release(shared)

    def close(self) -> None:
        """End the workers; work under way is lost."""
        super().close()
        self._bell.close()
        self._rope.close()
        self._lender.close()
