"""Base of the engines with workers: one thread dispatches jobs, and handles lost workers."""

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
    """A submitted job."""

    groups: Groups
    fold: Fold[Any] | None
    job: Job
    shared: Any  # the arrays, as returned by the engine's `_share`
    future: Future[Outcome] = field(default_factory=Future)
    second_of: Future[Outcome] | None = None  # the job that this one retries: there is no third try

    def is_among(self, futures: set[Future[Outcome]]) -> bool:
        """Return whether this ticket's future is one of `futures`."""
        return (self.second_of or self.future) in futures


class Worker(ABC):
    """A worker that does one job at a time, after loading the app."""

    def __init__(self) -> None:
        self.ready = False  # whether it has loaded the app
        self.ticket: Ticket | None = None  # its current job

    @abstractmethod
    def give(self, job: Job, shared: Any, states: bytes, state_arrays: Sequence[Values]) -> None:
        """Give it a job; its death is reported separately."""

    @abstractmethod
    def stop(self) -> None:
        """End it, even in the middle of a job."""


@dataclass(frozen=True)
class Ready:
    """A worker has loaded the app, or failed for a reason."""

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
    """Runs clients in workers.

    A worker that dies is replaced, and each client that lost its answer is retried once, in a job of its own; if that
    is lost too, or the spec allows no second try, the client has failed. There is at least one worker.
    """

    def __init__(self, spec: AppSpec, workers: int) -> None:
        super().__init__(spec, workers)
        self._lock = threading.Lock()  # for the next three, which both threads use
        self._queue: deque[Ticket] = deque()
        self._abandoned: set[Future[Outcome]] = set()
        self._closing = False
        self._broken = ""  # why the engine failed
        self._failed_starts = 0
        self._busy: set[int] = set()  # clients of jobs that workers have
        self._workers = [self._start() for _ in range(workers)]
        self._thread = threading.Thread(target=self._dispatch, name="fedsim-dispatch", daemon=True)
        self._thread.start()

    # --- defined by an engine -----------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> Worker:
        """Start a worker."""

    @abstractmethod
    def _listen(self) -> Iterable[tuple[Worker, Ready | Done | Died]]:
        """Wait for messages of workers, or a call of `_ring`, and return the messages."""

    @abstractmethod
    def _ring(self) -> None:
        """End the current `_listen` of another thread, or the next."""

    @abstractmethod
    def _share(self, arrays: Sequence[Values]) -> Any:
        """Put arrays where all workers can read them; the caller holds them once."""

    def _hold(self, shared: Any) -> None:
        """Note one more holder of shared arrays."""

    def _release(self, shared: Any) -> None:
        """Note one holder less."""

    # --- called by the server's thread --------------------------------------------------------------------

    def _submit(self, jobs: Sequence[Groups], fold: Fold[Any] | None) -> list[Future[Outcome]]:
        packer, shared, count = Packer(), None, 0
        futures: list[Future[Outcome]] = []
        first = self.workers  # submitted first, so that no worker waits while the rest is packed
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
            except Exception as error:  # otherwise all would wait forever
                self._broken = f"the engine failed: {type(error).__name__}: {error}"
            if self._broken:
                self._fail_everything()

    def _hear(self, worker: Worker, said: Ready | Done | Died) -> None:
        if worker not in self._workers:
            return  # it was replaced in the meantime
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
        """Take the first ticket with no busy clients, since a client's jobs depend on its state."""
        with self._lock:
            for place, ticket in enumerate(self._queue):
                if self._busy.isdisjoint(ticket.job.clients):
                    del self._queue[place]
                    return ticket
        return None

    def _take_from(self, worker: Worker) -> Ticket | None:
        ticket, worker.ticket = worker.ticket, None
        if ticket is not None:
            self._busy.difference_update(ticket.job.clients)
        return ticket

    # --- failures -----------------------------------------------------------------------------------------

    def _lose(self, worker: Worker, reason: str) -> None:
        """Replace a dead worker, and retry its job."""
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
        """Retry each client of a lost job in a job of its own; a client that is lost again has failed."""
        self._release(ticket.shared)
        if ticket.second_of is not None or not self.spec.second_try:
            said = reason if ticket.second_of is None else f"{reason}, twice"
            ticket.future.set_result(_failure(ticket, said))
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
        """Drop jobs that are no longer awaited; a worker at one of them is replaced."""
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
        """Answer all waiting jobs with the engine's failure."""
        held = [self._take_from(worker) for worker in self._workers]
        with self._lock:
            tickets = [ticket for ticket in held if ticket is not None] + list(self._queue)
            self._queue.clear()
        for ticket in tickets:
            self._release(ticket.shared)
            ticket.future.set_result(_failure(ticket, self._broken))


def _failure(ticket: Ticket, reason: str) -> Outcome:
    error = Error(ErrorCode.CLIENT_APP_CRASHED, reason)
    messages = itertools.chain.from_iterable(ticket.groups)
    return _outcome(ticket, [Message(error, reply_to=message) for message in messages])


def _outcome(ticket: Ticket, replies: list[Message]) -> Outcome:
    """Return replies as the job's outcome, folded if it has a fold."""
    if ticket.fold is None:
        return Outcome(replies)
    return Outcome(folded=fold_groups(ticket.fold, ticket.job.sizes, replies))
