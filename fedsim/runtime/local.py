"""The local engine: worker processes on this machine, and one thread that keeps them busy."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedsim.runtime.grid import ClientsGrid
from fedsim.runtime.jobs import Fold, Job, Outcome
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.sharing import Channel, Lender, Loan
from fedsim.runtime.spec import AppSpec

AHEAD = 2  # jobs that a worker may have: the one it does, and the next, so that it need not wait for us
SMALL = 1 << 14  # bytes of a job that a socket surely takes in while the worker is busy
STARTS = 3  # workers in a row that may end before they are ready
SHORT = 0.05  # seconds: of jobs as short as that, a worker gets the next one while it is at one


@dataclass(eq=False)
class Ticket:
    """A job on its way."""

    messages: Sequence[Message]
    fold: Fold[Any] | None
    job: Job
    loan: Loan | None
    future: Future[Outcome] = field(default_factory=Future)
    second_of: Future[Outcome] | None = (
        None  # the job whose client is tried again here: there is no third time
    )

    def is_among(self, futures: set[Future[Outcome]]) -> bool:
        """Say whether what waits for this ticket is one of `futures`."""
        return (self.second_of or self.future) in futures


class Worker:
    """A process that does jobs, one at a time.

    It is a fresh interpreter and not a fork: PyTorch's threads don't survive a fork, and a script or a
    notebook needs no `if __name__ == "__main__"`.
    """

    def __init__(self, spec: AppSpec, lender: Lender) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path)}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedsim.runtime.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self.ready = False
        self.tickets: deque[Ticket] = deque()
        self.since = 0.0  # when the first of them began
        self._connection = Connection(ours.detach())
        self._connection.send(spec)
        self.channel = Channel(self._connection, lender)

    def became_ready(self) -> str:
        """Read whether it has loaded the app; returns why not, if so."""
        reason: str = self._connection.recv()
        self.ready = not reason
        return reason

    def stop(self) -> None:
        """End the process."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


class LocalGrid(ClientsGrid):
    """Clients played by worker processes.

    A worker that dies is replaced, and the client that it was at is tried once more, alone; the second time
    it has failed.

    Args:
        spec: What the workers run.
        workers: How many, at least 1.
    """

    def __init__(self, spec: AppSpec, workers: int) -> None:
        super().__init__(spec)
        self._lender = Lender()
        self._lock = threading.Lock()  # of what both threads touch: the next three
        self._queue: deque[Ticket] = deque()
        self._abandoned: set[Future[Outcome]] = set()
        self._closing = False
        self._broken = ""  # why no job can be done any more
        self._failed_starts = 0
        self._busy: set[int] = set()  # clients whose jobs are with a worker
        self._pace = float("inf")  # seconds that the last jobs took
        self._selector = selectors.DefaultSelector()
        self._bell, ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring = ring
        self._selector.register(self._bell, selectors.EVENT_READ, None)
        self._workers: list[Worker] = []
        for _ in range(workers):
            self._start_worker()
        self._thread = threading.Thread(target=self._dispatch, name="fedsim-dispatch", daemon=True)
        self._thread.start()

    # --- called by the server's thread --------------------------------------------------------------------

    def _submit(self, groups: Sequence[Sequence[Message]], fold: Fold[Any] | None) -> list[Future[Outcome]]:
        packer, loan, lent = Packer(), None, 0
        futures: list[Future[Outcome]] = []
        first = AHEAD * len(self._workers)  # so many go ahead, that no worker waits while we pack the rest
        for chunk in (groups[:first], groups[first:]):
            jobs = [Job.of(group, fold, packer) for group in chunk]
            if len(packer.arrays) > lent:
                self._lender.release(loan)
                loan, lent = self._lender.lend(packer.arrays), len(packer.arrays)
            tickets = []
            for group, job in zip(chunk, jobs, strict=True):
                self._lender.hold(loan)
                tickets.append(Ticket(group, fold, job, loan))
            with self._lock:
                self._queue.extend(tickets)
            self._wake()
            futures += [ticket.future for ticket in tickets]
        self._lender.release(loan)
        return futures

    def _abandon(self, futures: Iterable[Future[Outcome]]) -> None:
        with self._lock:
            self._abandoned.update(futures)
        self._wake()

    def close(self) -> None:
        """End the workers; work under way is lost."""
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join()
        for worker in self._workers:
            worker.stop()
        self._selector.close()
        self._bell.close()
        self._ring.close()
        self._lender.close()

    def _wake(self) -> None:
        self._ring.send(b"\0")

    # --- the dispatching thread ---------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while True:
            try:
                self._turn()
            except Exception as error:  # nobody would hear of it, and everybody wait
                self._broken = f"fedsim's engine failed: {type(error).__name__}: {error}"
            if self._closing:
                return
            if self._broken:
                self._fail_everything()

    def _turn(self) -> None:
        """Wait for something to happen, and see to it."""
        for key, _ in self._selector.select():
            if key.data is None:
                self._bell.recv(4096)
            else:
                self._hear(key.data)
        if not self._closing:
            self._give_up()
            self._hand_out()

    def _hear(self, worker: Worker) -> None:
        """Take what a worker says."""
        try:
            if not worker.ready:
                self._broken = worker.became_ready()
                self._failed_starts = 0
                return
            packed, (arrays,) = worker.channel.receive()
        except (EOFError, OSError):
            self._replace(worker, retry=True)
            return
        ticket = worker.tickets.popleft()
        self._lender.release(ticket.loan)
        if ticket.fold is None:  # there may be many, for long: out of shared memory
            arrays = [np.array(values) for values in arrays]
        outcome = unpack(packed, arrays)
        self._busy.difference_update(ticket.job.clients)
        self._pace = time.monotonic() - worker.since
        worker.since = time.monotonic()
        ticket.future.set_result(self._note(outcome))

    def _hand_out(self) -> None:
        """Give workers their next jobs."""
        ahead = AHEAD if self._pace < SHORT else 1
        for depth in range(ahead):
            for worker in self._workers:
                if worker.ready and len(worker.tickets) == depth and (ticket := self._next(depth == 0)):
                    self._give(worker, ticket)

    def _next(self, worker_waits: bool) -> Ticket | None:
        """Take the first ticket that can go: its clients are at nothing else, as their states depend on it."""
        with self._lock:
            for place, ticket in enumerate(self._queue):
                if self._busy.isdisjoint(ticket.job.clients):
                    if not worker_waits and sum(map(len, ticket.job.messages)) > SMALL:
                        return None
                    del self._queue[place]
                    return ticket
        return None

    def _give(self, worker: Worker, ticket: Ticket) -> None:
        packer = Packer()
        states = packer.pack(self._states_of(ticket.job))
        loan = self._lender.lend(packer.arrays)
        if not worker.tickets:
            worker.since = time.monotonic()
        worker.tickets.append(ticket)
        self._busy.update(ticket.job.clients)
        with contextlib.suppress(OSError):  # it has died, as we are about to hear from its channel
            worker.channel.send(pickle.dumps((ticket.job, states)), ticket.loan, loan)
        self._lender.release(loan)

    # --- when things go wrong -----------------------------------------------------------------------------

    def _start_worker(self) -> None:
        worker = Worker(self.spec, self._lender)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        self._workers.append(worker)

    def _replace(self, worker: Worker, *, retry: bool) -> None:
        """Start another worker for one that is dead or to die, and see to its jobs."""
        self._selector.unregister(worker.channel)
        self._workers.remove(worker)
        worker.stop()
        for ticket in worker.tickets:
            self._busy.difference_update(ticket.job.clients)
        tickets = list(worker.tickets)
        if retry and worker.ready and tickets:
            self._retry(tickets.pop(0), f"worker process ended with {worker.process.returncode}")
        with self._lock:
            self._queue.extendleft(reversed(tickets))
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                self._broken = f"worker process ended with {worker.process.returncode} before it was ready"
                return
        self._start_worker()

    def _retry(self, ticket: Ticket, reason: str) -> None:
        """Try each client of a job that was lost once more, alone; whoever is lost again has failed."""
        self._lender.release(ticket.loan)
        if ticket.second_of is not None:
            ticket.future.set_result(_failure(ticket, f"{reason}, twice"))
            return
        tickets = []
        for message in ticket.messages:
            packer = Packer()
            job = Job.of([message], None, packer)
            tickets.append(
                Ticket([message], None, job, self._lender.lend(packer.arrays), second_of=ticket.future)
            )
        missing = len(tickets)

        def gather(_: Future[Outcome]) -> None:
            nonlocal missing
            missing -= 1
            if missing == 0:
                replies = [again.future.result().replies[0] for again in tickets]
                ticket.future.set_result(_outcome(ticket, replies))

        for again in tickets:
            again.future.add_done_callback(gather)
        with self._lock:
            self._queue.extendleft(reversed(tickets))

    def _give_up(self) -> None:
        """Drop the jobs that nobody waits for; a worker that is at one is replaced."""
        with self._lock:
            if not self._abandoned:
                return
            abandoned, self._abandoned = self._abandoned, set()
            dropped = [ticket for ticket in self._queue if ticket.is_among(abandoned)]
            self._queue = deque(ticket for ticket in self._queue if not ticket.is_among(abandoned))
        for worker in list(self._workers):
            given_up = [ticket for ticket in worker.tickets if ticket.is_among(abandoned)]
            if given_up:
                worker.tickets = deque(t for t in worker.tickets if not t.is_among(abandoned))
                for ticket in given_up:
                    self._busy.difference_update(ticket.job.clients)
                self._replace(worker, retry=False)
                dropped += given_up
        for ticket in dropped:
            self._lender.release(ticket.loan)

    def _fail_everything(self) -> None:
        """Answer all that waits with the reason why nothing works any more."""
        with self._lock:
            tickets = [ticket for worker in self._workers for ticket in worker.tickets] + list(self._queue)
            self._queue.clear()
        for worker in self._workers:
            worker.tickets.clear()
        for ticket in tickets:
            self._lender.release(ticket.loan)
            ticket.future.set_result(_failure(ticket, self._broken))


def _failure(ticket: Ticket, reason: str) -> Outcome:
    """Return what a job gives that could not be done."""
    error = Error(ErrorCode.CLIENT_APP_CRASHED, reason)
    return _outcome(ticket, [Message(error, reply_to=message) for message in ticket.messages])


def _outcome(ticket: Ticket, replies: list[Message]) -> Outcome:
    """Return replies as the job's outcome, folded if it has a fold."""
    if ticket.fold is None:
        return Outcome(replies)
    return Outcome(folded=functools.reduce(ticket.fold.add, replies, None))
