"""The messages in a SuperLink's database: whole ones in, whole ones out, by Flower's own handlers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from flwr.common.constant import Status
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.server.superlink.linkstate import LinkState
from flwr.server.superlink.utils import check_abort
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

NOT_RUNNING = [Status.PENDING, Status.STARTING, Status.FINISHED]


@dataclass(frozen=True)
class Pulled:
    """A message that a node has pulled: Flower's answer to the pull, with one head and one tree of object ids."""

    answer: PullMessagesResponse

    @property
    def tree(self) -> ObjectTree:
        """The ids of the message's objects."""
        tree: ObjectTree = self.answer.message_object_trees[0]
        return tree

    @property
    def id(self) -> str:
        """The message's id."""
        return str(self.tree.object_id)

    @property
    def run_id(self) -> int:
        """The message's run."""
        return int(self.answer.messages_list[0].metadata.run_id)


class MessageStore:
    """Messages from ServerApps to nodes, and replies, in Flower's state over its database.

    For one thread at a time. Every method is called inside `session()`, but for `push_reply` and `heartbeat`.
    """

    def __init__(self, state: LinkState) -> None:
        self._state: Any = state

    def session(self) -> AbstractContextManager[Any]:
        """Return a transaction: an exception in the block undoes what the block has changed."""
        session: AbstractContextManager[Any] = self._state.session()
        return session

    def pull_message(self, request: PullMessagesRequest) -> Pulled | None:
        """Return the next message to the node of a request; None: there is none."""
        answer = fleet_handlers.pull_messages(request, self._state, self._state.object_store)
        return Pulled(answer) if answer.messages_list else None

    def push_reply(self, request: PushMessagesRequest, contents: Mapping[str, bytes]) -> PushMessagesResponse:
        """Keep a node's reply, for which the message that it replies to is over; a transaction of its own.

        Raises:
            FlowerError: The run has ended.
            ValueError: An object is missing or damaged.
        """
        refused: FlowerError | None = None
        with self.session():
            try:
                answer = fleet_handlers.push_messages(request, self._state)
                run_id = request.messages_list[0].metadata.run_id
                self._store(run_id, answer.session_id, answer.objects_to_push, contents)
            except FlowerError as error:  # Flower may have marked the run as ended, which must be committed
                refused = error
        if refused is not None:
            raise refused
        return answer

    def heartbeat(self, request: SendNodeHeartbeatRequest) -> SendNodeHeartbeatResponse:
        """Note that a node is online; a transaction of its own."""
        return fleet_handlers.send_node_heartbeat(request, self._state)

    def task(self, token: str) -> Any:
        """Return the task of a ServerApp, which has its `run_id`; None: no task that is under way has this token."""
        return self._state.get_task_by_token(token)

    def push_messages(
        self, task: Any, request: PushAppMessagesRequest, contents: Mapping[str, bytes]
    ) -> PushAppMessagesResponse:
        """Keep a ServerApp's messages until their nodes pull them; raises `ValueError` as `push_reply`."""
        answer = runtime_handlers.push_messages(request, self._state, task)
        self._store(task.run_id, answer.session_id, answer.objects_to_push, contents)
        return answer

    def pull_replies(self, task: Any, message_ids: Sequence[str]) -> PullAppMessagesResponse:
        """Return the heads of the replies to some messages, as far as there are any."""
        request = PullAppMessagesRequest(message_ids=message_ids)
        return runtime_handlers.pull_messages(request, self._state, task)

    def is_over(self, run_id: int) -> bool:
        """Say whether no message of a run is to be delivered any more."""
        return check_abort(run_id, NOT_RUNNING, self._state) is not None

    def contents(self, run_id: int, tree: ObjectTree) -> dict[str, bytes] | None:
        """Return a message's objects by their ids; None: one of them isn't there any more."""
        contents = {}
        for part in iterate_object_tree(tree):
            content = self._state.get_object(run_id, part.object_id)
            if not content:
                return None
            contents[part.object_id] = content
        return contents

    def delete(self, message_id: str) -> None:
        """Delete a message's objects, but for those that other messages share."""
        self._state.object_store.delete(message_id)

    def _store(self, run_id: int, session: str, ids: Collection[str], contents: Mapping[str, bytes]) -> None:
        """Keep the objects that Flower lacks; raises `ValueError` where one is missing or damaged."""
        for id_ in ids:
            if id_ not in contents or not self._state.store_object(run_id, session, id_, contents[id_]):
                raise ValueError("an object of the message is missing or damaged")
