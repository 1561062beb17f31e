"""Messages, each whole in one request, between clients and ServerApps: by Flower's handlers, in one transaction each.

Flower takes five requests and more to hand on a message: one for its head, one for each object that it consists of, one
to confirm that it came. A reply whose objects never come, since its client died over it, is announced all the same, and
waited for by a ServerApp that has no deadline for it. Here a message is whole, or it is not there.

The gate has authenticated a client already, so what is left is to see that it speaks for its own node; a ServerApp has
its task's token, as ever.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from fedsim.deployment.asgi import Denied, Gone, answer, header, read_body
from fedsim.deployment.wire import COLLECT, GIVE, INSTANCE, MANY, SEND, TAKE

if TYPE_CHECKING:
    from flwr.proto.fleet_pb2 import PullMessagesResponse
    from flwr.proto.message_pb2 import ObjectTree
    from flwr.server.superlink.linkstate import LinkState

log = logging.getLogger("fedsim.server")

NODE = "fedsim.node"  # in a request's scope: the node that the gate has found it to come from
TASK = "flwr-task-token"
HEARTBEAT = "/v1/fleet/send-node-heartbeat"
MEDIA_TYPE = b"application/protobuf"

T = TypeVar("T")


@dataclass(frozen=True)
class _Handed:
    """A message that a client was given; it may not have come.

    Attributes:
        instance: The client's process.
        head: The answer that it was given.
    """

    instance: str
    head: PullMessagesResponse

    @property
    def tree(self) -> ObjectTree:
        """The message's objects."""
        tree: ObjectTree = self.head.message_object_trees[0]
        return tree

    @property
    def run_id(self) -> int:
        """The message's run."""
        return int(self.head.messages_list[0].metadata.run_id)


class Exchange:
    """Flower's app, before which messages are handed on whole.

    Args:
        app: Flower's.
        state: Its state, over a database.
    """

    def __init__(self, app: ASGIApp, state: LinkState) -> None:
        self._app = app
        self._state: Any = state
        self._lock = threading.Lock()  # SQLite has one writer at a time, and makes others wait by sleeping
        self._handed: dict[int, _Handed] = {}  # by node
        self._sizes: dict[str, int] = {}  # bytes of the replies that wait, by the message replied to
        self._routes: dict[str, Callable[[Scope, bytes], bytes]] = {
            TAKE: self._take,
            GIVE: self._give,
            SEND: self._send,
            COLLECT: self._collect,
            HEARTBEAT: self._heartbeat,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        serve = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if serve is None:
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(scope, receive, limit=math.inf)
        except Gone:
            return
        try:
            content = await asyncio.to_thread(serve, scope, body)
        except Exception as error:
            await answer(send, *_refusal(error))
            return
        headers = [(b"content-type", MEDIA_TYPE), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    # --- a client -------------------------------------------------------------------------------------------

    def _take(self, scope: Scope, body: bytes) -> bytes:
        """Return a client's next message; empty: there is none.

        One whose answer got lost is given again to the process that asks for the next without having it.
        """
        from flwr.proto.fleet_pb2 import PullMessagesRequest
        from flwr.superlink.servicer.fleet import fleet_handlers as flower

        request = _parsed(PullMessagesRequest, body)
        node, instance = _own_node(scope, request.node.node_id), header(scope, INSTANCE) or ""
        with self._lock, self._state.session():
            handed = self._handed.pop(node, None)
            if handed is not None and (
                handed.instance != instance or handed.tree.object_id in request.message_ids
            ):
                self._state.object_store.delete(handed.tree.object_id)
                handed = None
            if handed is None:
                head = flower.pull_messages(request, self._state, self._state.object_store)
                if not head.messages_list:
                    return b""
                handed = _Handed(instance, head)
            contents = None if self._is_over(handed.run_id) else self._contents(handed.run_id, handed.tree)
            if contents is None:
                return b""
            self._handed[node] = handed
            return _packed(handed.head, contents)

    def _give(self, scope: Scope, body: bytes) -> bytes:
        """Keep a client's reply, for which the message that it replies to is over."""
        from flwr.proto.fleet_pb2 import PushMessagesRequest
        from flwr.supercore.error import FlowerError
        from flwr.superlink.servicer.fleet import fleet_handlers as flower

        request, contents = _unpacked(PushMessagesRequest, body)
        node = _own_node(scope, request.node.node_id)
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise Denied(400, "is not one reply")
        reply = request.messages_list[0].metadata
        if reply.src_node_id != node:
            raise Denied(403, "the reply is in the name of another client")
        refused: FlowerError | None = None
        with self._lock, self._state.session():
            try:
                taken = flower.push_messages(request, self._state)
                self._keep(reply.run_id, taken.session_id, taken.objects_to_push, contents)
            except FlowerError as error:  # the run has ended, which Flower may just have noted
                refused = error
        if refused is not None:
            raise refused
        self._sizes[reply.reply_to_message_id] = sum(map(len, contents.values()))
        return bytes(taken.SerializeToString())

    def _heartbeat(self, scope: Scope, body: bytes) -> bytes:
        """Note that a client is alive: each says so every few seconds."""
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
        from flwr.superlink.servicer.fleet import fleet_handlers as flower

        request = _parsed(SendNodeHeartbeatRequest, body)
        _own_node(scope, request.node.node_id)
        with self._lock:
            return bytes(flower.send_node_heartbeat(request, self._state).SerializeToString())

    # --- a ServerApp ----------------------------------------------------------------------------------------

    def _send(self, scope: Scope, body: bytes) -> bytes:
        """Keep a ServerApp's messages until their clients take them."""
        from flwr.proto.runtime_pb2 import PushAppMessagesRequest
        from flwr.superlink.servicer.runtime import runtime_handlers as flower

        request, contents = _unpacked(PushAppMessagesRequest, body)
        with self._lock, self._state.session():
            task = self._task(scope)
            taken = flower.push_messages(request, self._state, task)
            self._keep(task.run_id, taken.session_id, taken.objects_to_push, contents)
        return bytes(taken.SerializeToString())

    def _collect(self, scope: Scope, body: bytes) -> bytes:
        """Return the replies that are there to a ServerApp's messages, as many as fit; empty: there are none."""
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
        from flwr.superlink.servicer.runtime import runtime_handlers as flower

        asked = _parsed(PullAppMessagesRequest, body).message_ids
        replies = PullAppMessagesResponse()
        contents: dict[str, bytes] = {}
        with self._lock, self._state.session():
            task = self._task(scope)
            some = PullAppMessagesRequest(message_ids=self._that_fit(asked))
            found = flower.pull_messages(some, self._state, task)
            for head, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                objects = self._contents(task.run_id, tree)
                self._sizes.pop(head.metadata.reply_to_message_id, None)
                self._state.object_store.delete(tree.object_id)
                if objects is not None:
                    replies.messages_list.append(head)
                    replies.message_object_trees.append(tree)
                    contents |= objects
        return _packed(replies, contents) if contents else b""

    def _that_fit(self, asked: Sequence[str]) -> list[str]:
        """Return messages whose replies fit into an answer, those without a reply included: Flower may have errors."""
        some, size = [], 0
        for id_ in asked:
            more = self._sizes.get(id_, 0)
            if not size or size + more <= MANY:
                some.append(id_)
                size += more
        return some

    # --- Flower's state -------------------------------------------------------------------------------------

    def _task(self, scope: Scope) -> Any:
        """Return the task of the ServerApp that asks; raises `Denied`."""
        task = self._state.get_task_by_token(header(scope, TASK) or "")
        if task is None:
            raise Denied(401, "no task that goes on has this token")
        return task

    def _is_over(self, run_id: int) -> bool:
        from flwr.common.constant import Status
        from flwr.server.superlink.utils import check_abort

        return (
            check_abort(run_id, [Status.PENDING, Status.STARTING, Status.FINISHED], self._state) is not None
        )

    def _contents(self, run_id: int, tree: ObjectTree) -> dict[str, bytes] | None:
        """Return a message's objects by their hashes; None where one isn't there any more."""
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

        contents = {}
        for part in iterate_object_tree(tree):
            content = self._state.get_object(run_id, part.object_id)
            if not content:
                log.warning("run %d: a message is gone before it was handed on", run_id)
                return None
            contents[part.object_id] = content
        return contents

    def _keep(self, run_id: int, session: str, ids: Collection[str], contents: Mapping[str, bytes]) -> None:
        """Keep the objects that Flower hasn't; raises `Denied` where one is missing or damaged."""
        for id_ in ids:
            if id_ not in contents or not self._state.store_object(run_id, session, id_, contents[id_]):
                raise Denied(400, "an object of the message is missing or damaged")


def _own_node(scope: Scope, node: int) -> int:
    """Return the node that a request speaks for; raises `Denied` where it isn't that of the client's key."""
    if NODE in scope and scope[NODE] != node:
        raise Denied(401, "the node is not that of the client's key")
    return node


def _parsed(kind: type[T], body: bytes) -> T:
    """Return a body's protobuf message; raises `Denied`."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return kind.FromString(body)  # type: ignore[attr-defined,no-any-return]
    except DecodeError:
        raise Denied(400, f"is no {kind.__name__}") from None


def _unpacked(kind: type[T], body: bytes) -> tuple[T, dict[str, bytes]]:
    """Return a body's request and objects; raises `Denied`."""
    from flwr.proto.recorddict_pb2 import BytesList

    from fedsim.deployment.letter import unpack

    try:
        return unpack(kind, _parsed(BytesList, body))
    except ValueError as error:
        raise Denied(400, str(error)) from None


def _packed(head: Any, contents: Mapping[str, bytes]) -> bytes:
    from fedsim.deployment.letter import pack

    return bytes(pack(head, contents.values()).SerializeToString())


def _refusal(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of the answer to a request that failed, as Flower gives them."""
    from flwr.supercore.error import FlowerError
    from flwr.supercore.error.catalog import API_ERROR_MAP

    if isinstance(error, Denied):
        return error.status, {"error": str(error)}
    if isinstance(error, FlowerError) and (known := API_ERROR_MAP.get(error.code)) is not None:
        return known.http_status_code, error.to_json(known.public_message)
    if isinstance(error, ValueError):
        return 400, {"error": str(error)}
    log.error("a message could not be handed on: %s: %s", type(error).__name__, error)
    return 500, {"error": "the server can't hand on messages; its log says why"}
