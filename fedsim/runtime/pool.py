"""What the engines with workers have in common: one thread that keeps the workers busy.

An engine says how a worker is started, how it is given a job, and how it is heard of; which job goes where,
and what happens when a worker is lost, is here.
"""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message

from fedsim.arrays import Values
from fedsim.flower.constants import ErrorCode
from fedsim.runtime.grid import ClientsGrid
from fedsim.runtime.jobs import Fold, Groups, Job, Outcome, fold_groups
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.spec import AppSpec

STARTS = 3  # workers in a row that may end before they are ready


@dataclass(eq=False)
class Ticket:
    """A job on its way."""

    groups: Groups
    fold: Fold[Any] | None
    job: Job
    shared: Any  # what the engine's `_share` made of the arrays
    future: Future[Outcome] = field(default_factory=Future)
    second_of: Future[Outcome] | None = (
        None  # the job whose client is tried again here: there is no third time
    )

    def is_among(self, futures: set[Future[Outcome]]) -> bool:
        """Say whether what waits for this ticket is one of `futures`."""
        return (self.second_of or self.future) in futures


class Worker(ABC):
    """Something that does jobs, one at a time, and at first is not ready.

    Attributes:
        ready: Whether it has loaded the app.
        ticket: What it is at.
    """

    def __init__(self) -> None:
        self.ready = False
        self.ticket: Ticket | None = None

    @abstractmethod
    def give(self, job: Job, shared: Any, states: bytes, state_arrays: Sequence[Values]) -> None:
        """Hand it a job; if it is dead, that is heard of otherwise."""

    @abstractmethod
    def stop(self) -> None:
        """End it, even in the middle of a job."""


@dataclass(frozen=True)
class Ready:
    """A worker has loaded the app; or can't, for a reason."""

    refusal: str = ""


@dataclass(frozen=True)
class Done:
    """A worker has done its job."""

    packed: bytes
    arrays: Sequence[Values]


@dataclass(frozen=True)
class Died:
    """A worker is gone."""

    reason: str


class PoolGrid(ClientsGrid):
    """Clients played by workers.

    A worker that dies is replaced, and each client whose answer was lost with it is tried once more, alone;
    the second time it has failed. Where the spec allows no second try, it has failed at once.

    Args:
        spec: What the workers run.
        workers: How many, at least 1.
    """

    def __init__(self, spec: AppSpec, workers: int) -> None:
        super().__init__(spec, workers)
        self._lock = threading.Lock()  # of what both threads touch: the next three
        self._queue: deque[Ticket] = deque()
        self._abandoned: set[Future[Outcome]] = set()
        self._closing = False
        self._broken = ""  # why no job can be done any more
        self._failed_starts = 0
        self._busy: set[int] = set()  # clients whose jobs are with a worker
        self._workers = [self._start() for _ in range(workers)]
        self._thread = threading.Thread(target=self._dispatch, name="fedsim-dispatch", daemon=True)
        self._thread.start()

    # --- what an engine says ------------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> Worker:
        """Start a worker."""

    @abstractmethod
    def _listen(self) -> Iterable[tuple[Worker, Ready | Done | Died]]:
        """Wait until a worker has something to say, or `_ring` is called, and return what they say."""

    @abstractmethod
    def _ring(self) -> None:
        """End a `_listen` that is under way in another thread, or the next."""

    @abstractmethod
    def _share(self, arrays: Sequence[Values]) -> Any:
        """Put arrays where all workers can read them; to be held once."""

    def _hold(self, shared: Any) -> None:
        """Note one more who needs shared arrays."""

    def _release(self, shared: Any) -> None:
        """Note one less."""

    # --- called by the server's thread --------------------------------------------------------------------

    def _submit(self, jobs: Sequence[Groups], fold: Fold[Any] | None) -> list[Future[Outcome]]:
        packer, shared, count = Packer(), None, 0
        futures: list[Future[Outcome]] = []
        first = self.workers  # so many go ahead, that no worker waits while we pack the rest
        for chunk in (jobs[:first], jobs[first:]):
            packed = [Job.of(groups, fold, packer) for groups in chunk]
            if len(packer.arrays) > count:
                self._release(shared)
                shared, count = self._share(packer.arrays), len(packer.arrays)
            tickets = [Ticket(groups, fold, job, shared) for groups, job in zip(chunk, packed, strict=True)]
            for _ in tickets:
                self._hold(shared)
            with self._lock:
                self._queue.extend(tickets)
            self._ring()
            futures += [ticket.future for ticket in tickets]
        self._release(shared)
        return futures

    def _abandon(self, futures: Iterable[Future[Outcome]]) -> None:
        with self._lock:
            self._abandoned.update(futures)
        self._ring()

    def close(self) -> None:
        """End the workers; work under way is lost."""
        with self._lock:
            self._closing = True
        self._ring()
        self._thread.join()
        for worker in self._workers:
            worker.stop()

    # --- the dispatching thread ---------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while not self._closing:
            try:
                for worker, said in self._listen():
                    self._hear(worker, said)
                self._give_up()
                self._hand_out()
            except Exception as error:  # else nobody would hear of it, and everybody wait
                self._broken = f"the engine failed: {type(error).__name__}: {error}"
            if self._broken:
                self._fail_everything()

    def _hear(self, worker: Worker, said: Ready | Done | Died) -> None:
        if worker not in self._workers:
            return  # it has been replaced in the meantime
        match said:
            case Ready(refusal):
                worker.ready, self._failed_starts = not refusal, 0
                self._broken = self._broken or refusal
            case Died(reason):
                self._lose(worker, reason)
            case Done(packed, arrays):
                ticket = self._take_from(worker)
                if ticket is not None:
                    self._release(ticket.shared)
                    ticket.future.set_result(self._note(unpack(packed, arrays)))

    def _hand_out(self) -> None:
        """Give idle workers their next jobs."""
        for worker in self._workers:
            if worker.ready and worker.ticket is None and (ticket := self._next()):
                worker.ticket = ticket
                self._busy.update(ticket.job.clients)
                packer = Packer()
                states = packer.pack(self._states_of(ticket.job))
                worker.give(ticket.job, ticket.shared, states, packer.arrays)

    def _next(self) -> Ticket | None:
        """Take the first ticket that can go: its clients are at nothing else, as their states depend on it."""
        with self._lock:
            for place, ticket in enumerate(self._queue):
                if self._busy.isdisjoint(ticket.job.clients):
                    del self._queue[place]
                    return ticket
        return None

    def _take_from(self, worker: Worker) -> Ticket | None:
        """Take a worker's ticket from it."""
        ticket, worker.ticket = worker.ticket, None
        if ticket is not None:
            self._busy.difference_update(ticket.job.clients)
        return ticket

    # --- when things go wrong -----------------------------------------------------------------------------

    def _lose(self, worker: Worker, reason: str) -> None:
        """Replace a worker that is dead; the job that it was at is tried again."""
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                self._broken = f"{reason} before it was ready"
        ticket = self._take_from(worker)
        self._replace(worker)
        if ticket is not None:
            self._try_again(ticket, reason)

    def _replace(self, worker: Worker) -> None:
        worker.stop()
        self._workers.remove(worker)
        if not self._broken:
            self._workers.append(self._start())

    def _try_again(self, ticket: Ticket, reason: str) -> None:
        """Try each client of a job that was lost once more, alone; whoever is lost again has failed."""
        self._release(ticket.shared)
        if ticket.second_of is not None:
            ticket.future.set_result(_failure(ticket, f"{reason}, twice"))
            return
        if not self.spec.second_try:
            ticket.future.set_result(_failure(ticket, reason))
            return
        again = []
        for message in itertools.chain.from_iterable(ticket.groups):
            packer = Packer()
            job = Job.of([[message]], None, packer)
            again.append(Ticket([[message]], None, job, self._share(packer.arrays), second_of=ticket.future))
        missing = len(again)

        def gather(_: Future[Outcome]) -> None:
            nonlocal missing
            missing -= 1
            if missing == 0:
                replies = [second.future.result().replies[0] for second in again]
                ticket.future.set_result(_outcome(ticket, replies))

        for second in again:
            second.future.add_done_callback(gather)
        with self._lock:
            self._queue.extendleft(reversed(again))

    def _give_up(self) -> None:
        """Drop the jobs that nobody waits for; a worker that is at one is replaced."""
        with self._lock:
            if not self._abandoned:
                return
            abandoned, self._abandoned = self._abandoned, set()
            dropped = [ticket for ticket in self._queue if ticket.is_among(abandoned)]
            self._queue = deque(ticket for ticket in self._queue if not ticket.is_among(abandoned))
        for worker in list(self._workers):
            if worker.ticket is not None and worker.ticket.is_among(abandoned):
                dropped.append(worker.ticket)
                self._take_from(worker)
                self._replace(worker)
        for ticket in dropped:
            self._release(ticket.shared)

    def _fail_everything(self) -> None:
        """Answer all that waits with the reason why nothing works any more."""
        held = [self._take_from(worker) for worker in self._workers]
        with self._lock:
            tickets = [ticket for ticket in held if ticket is not None] + list(self._queue)
            self._queue.clear()
        for ticket in tickets:
            self._release(ticket.shared)
            ticket.future.set_result(_failure(ticket, self._broken))


def _failure(ticket: Ticket, reason: str) -> Outcome:
    """Return what a job gives that could not be done."""
    error = Error(ErrorCode.CLIENT_APP_CRASHED, reason)
    messages = itertools.chain.from_iterable(ticket.groups)
    return _outcome(ticket, [Message(error, reply_to=message) for message in messages])


def _outcome(ticket: Ticket, replies: list[Message]) -> Outcome:
    """Return replies as the job's outcome, folded if it has a fold."""
    if ticket.fold is None:
        return Outcome(replies)
    return Outcome(folded=fold_groups(ticket.fold, ticket.job.sizes, replies))
