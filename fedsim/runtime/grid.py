"""The Grid shared by all engines: messages in, replies out, with Flower's semantics; and the reference engine."""

from __future__ import annotations

import itertools
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import UTC, datetime
from logging import ERROR
from typing import Any, Self, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import RunFailed
from fedsim.flower.log import log
from fedsim.flower.messages import no_node, no_reply, set_identity, unknown_message
from fedsim.flower.runs import Run, RunNotRunningException, simulated_run
from fedsim.runtime.jobs import Fold, Groups, Job, Outcome, perform
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.spec import RUN_ID, SERVER_NODE_ID, AppSpec, client_of, node_id, numbered_id
from fedsim.runtime.tree import PairTree, runs
from fedsim.runtime.waiting import NO_MORE_NODES, Waiting

T = TypeVar("T")


class ClientsGrid(Grid):
    """A Grid with all clients of a simulation as nodes.

    An engine defines how messages are answered (`_submit`, `_abandon`); this class handles ids, waiting, and clients'
    states. As a context manager it ends its workers.
    """

    def __init__(self, spec: AppSpec, workers: int = 1) -> None:
        self.spec = spec
        self.workers = workers
        self._states: dict[int, RecordDict] = {}
        self._changed: set[int] = set()
        self._pending: dict[str, tuple[Message, Future[Outcome] | None]] = {}
        self._counts: dict[int, Iterator[int]] = {}  # of the messages to each node
        self._sending = threading.Lock()  # a server may send from many threads
        self._waiting = Waiting()
        self._closed = False
        self.on_reply: Callable[[Message], None] = lambda reply: None
        """Called with each reply to `push_messages`, in any thread, even if it is never pulled."""
        set_identity(SERVER_NODE_ID, RUN_ID)

    @abstractmethod
    def _submit(self, jobs: Sequence[Groups], fold: Fold[Any] | None) -> list[Future[Outcome]]:
        """Let the clients of each job answer in order; the futures never raise."""

    def _abandon(self, futures: Iterable[Future[Outcome]]) -> None:
        """Give up work that is no longer awaited."""
        for future in futures:
            future.cancel()

    def close(self) -> None:
        """End the engine's processes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._closed = True
        self.close()

    # --- beyond Flower's interface ------------------------------------------------------------------------

    def client_nodes(self) -> Mapping[int, int]:
        """Return the node of each client, so that a server need not ask them."""
        return {client: node_id(client) for client in range(self.spec.clients)}

    def send_and_fold(self, groups: Groups, fold: Fold[T], *, timeout: float | None = None) -> T | None:
        """Send messages and return the total of their replies, folded where the replies are.

        A group's replies are added in order; the groups' totals are merged over a fixed tree, with its lower part
        summed by the workers. So the result's bits don't depend on the number of workers or their order, and at most
        about `log2(groups)` totals are held here, for any number of clients.

        A group has at least one message. A job (a run of groups) that is later than `timeout` seconds is left out of
        the total, which is None if all are late.
        """
        for message in itertools.chain.from_iterable(groups):
            self._number(message)
        tree: PairTree[T] = PairTree(len(groups), fold.merge)
        cut = runs(len(groups), self.workers)
        jobs = [groups[run.start : run.stop] for run in cut]
        waiting = dict(zip(self._submit(jobs, fold), cut, strict=True))
        for future in self._done_in(waiting, timeout):
            run = waiting.pop(future)
            tree.add(run.start, future.result().folded, len(run))
        self._abandon(waiting)
        for run in waiting.values():
            tree.add(run.start, None, len(run))
        return tree.total

    def changed_states(self) -> dict[int, RecordDict]:
        """Return possibly changed states since the last call, by client."""
        changed = {client: self._states[client] for client in sorted(self._changed)}
        self._changed.clear()
        return changed

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Set the clients' states from a checkpoint."""
        self._states.update(states)

    # --- Flower's interface -----------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Refuse: a simulation has one run."""
        raise ValueError("the run of a simulation can't be set")

    @property
    def run(self) -> Run:
        """The simulation's run."""
        return simulated_run(RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a client's node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of all clients.

        Raises:
            RunFailed: A server waits for more of them than there will ever be.
            RunNotRunningException: The run is over, and a thread of it asks on.
        """
        if self._closed:
            raise RunNotRunningException
        if self._waiting.asked():
            raise RunFailed(f"the app waits for more nodes: {NO_MORE_NODES.format(self.spec.clients)}")
        return [node_id(client) for client in range(self.spec.clients)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to their clients; return ids for pulling the replies.

        As in Flower, a message to an unknown node, or an expired one, is logged and gets no id.

        Raises:
            ValueError: A message is a reply, has been delivered before, or has no time to live.
        """
        self._waiting.acted()
        accepted = []
        for message in messages:
            self._number(message)
            node = message.metadata.dst_node_id
            if node != SERVER_NODE_ID and not 0 <= client_of(node) < self.spec.clients:
                log(ERROR, "Invalid destination node ID for Message: %s", message)
            elif _is_over(message):
                log(ERROR, "Message expired before it was sent: %s", message)
            else:
                accepted.append(message)
        to_clients = [message for message in accepted if message.metadata.dst_node_id != SERVER_NODE_ID]
        with self._sending:
            futures = self._submit([[[m]] for m in to_clients], None)
        self._pending |= {message.metadata.message_id: (message, None) for message in accepted}
        for message, future in zip(to_clients, futures, strict=True):
            future.add_done_callback(self._tell)
            message.metadata.delivered_at = datetime.now(UTC).isoformat()
            self._pending[message.metadata.message_id] = message, future
        return [message.metadata.message_id for message in accepted]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return available replies, each once.

        As in Flower, an id that is unknown, was pulled before, or belongs to an expired message, gives an error
        message (`ErrorCode.MESSAGE_UNAVAILABLE`).
        """
        self._waiting.acted()
        replies = []
        for message_id in dict.fromkeys(message_ids):
            if (reply := self._reply(message_id)) is not None:
                self._pending.pop(message_id, None)
                replies.append(reply)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to their clients and return the replies within `timeout` seconds.

        As in Flower, a late client works on, and its reply can be pulled later, unless its message is given up
        (`give_up`); an expired message is answered by an error. The replies come in the order of their messages, so
        that a sum of them has the same bits each time.
        """
        end = float("inf") if timeout is None else time.monotonic() + timeout
        sent = waiting = list(self.push_messages(messages))
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            came = list(self.pull_messages(waiting))
            replies += came
            answered = {reply.metadata.reply_to_message_id for reply in came}
            waiting = [message_id for message_id in waiting if message_id not in answered]
            self._wait(waiting, end)
        place = {message_id: i for i, message_id in enumerate(sent)}
        return sorted(replies, key=lambda reply: place[reply.metadata.reply_to_message_id])

    def give_up(self, messages: Iterable[Message]) -> None:
        """Drop messages that are no longer awaited; a worker at one of them is replaced."""
        given_up = [self._pending.pop(m.metadata.message_id, (None, None))[1] for m in messages]
        self._abandon(future for future in given_up if future is not None)

    def _number(self, message: Message) -> None:
        """Give a message its id, the node's and its number there; `ValueError` if it can't be sent, or was before."""
        metadata = message.metadata
        node = metadata.dst_node_id
        number = next(self._counts.setdefault(node, itertools.count(1)))
        metadata.__dict__["_message_id"] = numbered_id(node, number)
        metadata.__dict__["_src_node_id"] = (
            SERVER_NODE_ID  # another thread may have made it while a client answered
        )
        if metadata.reply_to_message_id or metadata.ttl <= 0 or metadata.delivered_at:
            raise ValueError(f"Invalid message: {message}")

    def _reply(self, message_id: str) -> Message | None:
        """Return the result of a pull for an id: the reply, an error, or None for not yet."""
        message, future = self._pending.get(message_id, (None, None))
        if message is None or _is_over(message):
            return unknown_message(message_id, RUN_ID)
        if future is None:
            return no_node(message)
        if not future.done():
            return None
        reply = future.result().replies[0]
        return no_reply(message) if _is_over(reply) else reply

    def _wait(self, message_ids: Sequence[str], end: float) -> None:
        """Wait until one of the messages is answered, its time is over, or it is `end` (monotonic)."""
        pending = [entry for i in message_ids if (entry := self._pending.get(i)) is not None]
        if not pending:
            return
        expiry = min(m.metadata.created_at + m.metadata.ttl for m, _ in pending) - time.time()
        seconds = max(min(end - time.monotonic(), expiry), 0)
        wait([future for _, future in pending if future is not None], seconds, FIRST_COMPLETED)

    def _tell(self, future: Future[Outcome]) -> None:
        if not future.cancelled():
            self.on_reply(future.result().replies[0])

    # --- shared by them -----------------------------------------------------------------------------------

    def _states_of(self, job: Job) -> dict[int, RecordDict]:
        """Return the existing states of a job's clients."""
        return {client: self._states[client] for client in job.clients if client in self._states}

    def _note(self, outcome: Outcome) -> Outcome:
        """Keep a job's resulting states; engines call this before its outcome is visible."""
        self._states.update(outcome.states)
        self._changed.update(outcome.states)
        return outcome

    @staticmethod
    def _done_in(futures: Iterable[Future[Outcome]], timeout: float | None) -> Iterable[Future[Outcome]]:
        """Yield futures as they complete, for at most `timeout` seconds."""
        waiting = set(futures)
        end = None if timeout is None else time.monotonic() + timeout
        while waiting:
            left = None if end is None else max(end - time.monotonic(), 0)
            done, waiting = wait(waiting, left, FIRST_COMPLETED)
            if not done:
                return
            yield from done


def _is_over(message: Message) -> bool:
    return message.metadata.created_at + message.metadata.ttl <= time.time()


class SequentialGrid(ClientsGrid):
    """The reference engine: in this process, one client after another. The other engines are tested against it."""

    def __init__(self, spec: AppSpec) -> None:
        super().__init__(spec)
        self._app = spec.load()

    def _submit(self, jobs: Sequence[Groups], fold: Fold[Any] | None) -> list[Future[Outcome]]:
        futures = []
        for groups in jobs:
            packer = Packer()
            job = Job.of(groups, fold, packer)
            states = unpack(packer.pack(self._states_of(job)), packer.arrays)
            done: Future[Outcome] = Future()
            done.set_result(self._note(perform(self._app, self.spec, job, packer.arrays, states)))
            futures.append(done)
        return futures
