"""The local engine: worker processes on this machine."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode

from fedsim.runtime.grid import ClientsGrid
from fedsim.runtime.spec import AppSpec


class WorkerDiedError(Exception):
    """A worker process ended while it had work."""


class Worker:
    """A process that answers messages, one at a time.

    It is a fresh interpreter and not a fork: PyTorch's threads don't survive a fork, and a script or a
    notebook needs no `if __name__ == "__main__"`.
    """

    def __init__(self, spec: AppSpec) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path)}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedsim.runtime.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._connection.send(spec)

    def answer(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Return the reply, and the client's context after it.

        Raises:
            WorkerDiedError: The process ended.
        """
        try:
            self._connection.send((message, context))
            reply: tuple[Message, Context] = self._connection.recv()
        except (EOFError, OSError):
            self.stop()
            raise WorkerDiedError(f"worker process ended with {self._process.returncode}") from None
        return reply

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class LocalGrid(ClientsGrid):
    """Clients played by worker processes.

    Args:
        spec: What the workers run.
        workers: How many, at least 1.
    """

    def __init__(self, spec: AppSpec, workers: int) -> None:
        super().__init__(spec)
        self._lock = threading.Lock()
        self._closed = False
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._workers = [Worker(spec) for _ in range(workers)]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="fedsim-worker")

    def _submit(self, message: Message, context: Context) -> Future[Message]:
        return self._threads.submit(self._answer, message, context)

    def _answer(self, message: Message, context: Context) -> Message:
        worker = self._idle.get()
        try:
            reply, after = worker.answer(message, context)
            context.state = after.state
        except WorkerDiedError as died:
            reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, str(died)), reply_to=message)
            worker = self._replace(worker)
        finally:
            self._idle.put(worker)
        return reply

    def _replace(self, worker: Worker) -> Worker:
        """Start another worker for one that died, unless all of them are being ended."""
        with self._lock:
            if self._closed:
                return worker
            self._workers.remove(worker)
            self._workers.append(Worker(self.spec))
            return self._workers[-1]

    def close(self) -> None:
        """End the workers; work under way is lost."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        self._threads.shutdown(wait=True)
