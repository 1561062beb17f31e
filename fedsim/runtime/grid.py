"""The Grid that all engines share: messages in, replies out, as Flower means them."""

from __future__ import annotations

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Self

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.runtime.spec import RUN_ID, SERVER_NODE_ID, AppSpec, node_id


class ClientsGrid(Grid):
    """A Grid whose nodes are all the clients of a simulation.

    An engine says how one message is answered (`_submit`); ids, waiting and each client's context, made when
    it is first used, are here. Use it as a context manager: it ends its workers.
    """

    def __init__(self, spec: AppSpec) -> None:
        self.spec = spec
        self._contexts: dict[int, Context] = {}
        self._touched: set[int] = set()  # clients that had a message since `changed_states`
        self._pending: dict[str, Future[Message]] = {}
        self._ids = itertools.count(1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE_ID, 0

    @abstractmethod
    def _submit(self, message: Message, context: Context) -> Future[Message]:
        """Have one client answer one message; the future never raises."""

    def close(self) -> None:
        """End what the engine has started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def client_nodes(self) -> Mapping[int, int]:
        """Return the node of each client, so that a server need not ask them."""
        return {client: node_id(client) for client in range(self.spec.clients)}

    def changed_states(self) -> dict[int, RecordDict]:
        """Return the state of each client that may have changed it since the last call."""
        changed = {client: self._contexts[client].state for client in sorted(self._touched)}
        self._touched.clear()
        return changed

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Give clients the states that they had in an earlier process."""
        for client, state in states.items():
            self._contexts[client] = self.spec.context(client)
            self._contexts[client].state = state

    # --- Flower's interface -----------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Refuse: a simulation has one run."""
        raise ValueError("the run of a simulation can't be set")

    @property
    def run(self) -> Run:
        """The simulation's run."""
        return Run.create_empty(RUN_ID)

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
        """Return the nodes of all clients."""
        return [node_id(client) for client in range(self.spec.clients)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to their clients; returns an id for each, to pull its reply with.

        Raises:
            ValueError: A message goes to no client.
        """
        pushed = []
        for message in messages:
            client = message.metadata.dst_node_id - node_id(0)
            if not 0 <= client < self.spec.clients:
                raise ValueError(f"there is no node {message.metadata.dst_node_id}")
            if client not in self._contexts:
                self._contexts[client] = self.spec.context(client)
            self._touched.add(client)
            message_id = f"{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = message_id
            self._pending[message_id] = self._submit(message, self._contexts[client])
            pushed.append(message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, each once."""
        ready = [i for i in message_ids if i in self._pending and self._pending[i].done()]
        return [self._pending.pop(i).result() for i in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Hand messages to their clients and return the replies that come within `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        ids = list(self.push_messages(messages))
        wait([self._pending[i] for i in ids], timeout=None if end is None else max(end - time.monotonic(), 0))
        replies = list(self.pull_messages(ids))
        for late in [i for i in ids if i in self._pending]:
            self._pending.pop(late).cancel()
        return replies
