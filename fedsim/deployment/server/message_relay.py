"""Relays whole messages between clients and ServerApps: one request and one transaction for each.

Flower takes five requests or more for a message: one for its head, one for each of its objects, one to confirm receipt.
If a client dies between them, its reply is announced and never complete, and a ServerApp without a deadline waits for it.
Here the database holds a message as a whole or not at all.

Clients were authenticated before (`fedsim.deployment.server.auth`); the relay checks that a request is for the client's own
node. ServerApps have the token of their task.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.message import Message as Protobuf
from starlette.types import ASGIApp, Receive, Scope, Send

from fedsim.deployment.server.asgi import Disconnected, HttpDenied, answer, header, read_body, respond
from fedsim.deployment.server.replies import Replies
from fedsim.deployment.wire import INSTANCE, MANY, NODE, TASK
from fedsim.flower.http import error_answer
from fedsim.flower.message_store import MessageStore, Pulled
from fedsim.flower.paths import COLLECT, GIVE, HEARTBEAT, SEND, TAKE
from fedsim.flower.protocol import (
    BytesList,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PullMessagesRequest,
    PushAppMessagesRequest,
    PushMessagesRequest,
    SendNodeHeartbeatRequest,
)
from fedsim.flower.wire_message import pack, unpack

log = logging.getLogger("fedsim.server")

T = TypeVar("T", bound=Protobuf)


class MessageRelay:
    """An ASGI app that serves the paths of whole messages, and passes all other requests on to Flower's app."""

    def __init__(self, app: ASGIApp, store: MessageStore) -> None:
        self._app = app
        self._store = store
        self._lock = threading.Lock()  # SQLite has one writer at a time; others would wait by sleeping
        # By node: the process that its last message was sent to, and the message, whose receipt isn't confirmed yet.
        self._deliveries: dict[int, tuple[str, Pulled]] = {}
        self._replies = Replies()
        self._sizes: dict[str, int] = {}  # bytes of each reply in the database, by the id of its message
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
        except Disconnected:
            return
        try:
            content = await asyncio.to_thread(serve, scope, body)
        except Exception as error:
            await answer(send, *_refusal(error))
            return
        await respond(send, 200, b"application/protobuf", content)

    def reply_limit(self, node: int | None) -> int:
        """Return how many bytes a reply of a node may have; None: of any."""
        with self._lock:
            return self._replies.limit(node)

    def _take(self, scope: Scope, body: bytes) -> bytes:
        """Return a client's next message; empty: there is none.

        A message is sent again to the same process if its next pull doesn't confirm the receipt.
        """
        request = _parsed(PullMessagesRequest, body)
        node, instance = _own_node(scope, request.node.node_id), header(scope, INSTANCE) or ""
        with self._lock, self._store.session():
            process, message = self._deliveries.pop(node, (instance, None))
            if message is not None and (process != instance or message.id in request.message_ids):
                self._store.delete(message.id)
                message = None
            message = message or self._store.pull_message(request)
            if message is None or self._store.is_over(message.run_id):
                return b""
            contents = self._contents(message.run_id, message.tree)
            if contents is None:
                return b""
            self._deliveries[node] = instance, message
            size = sum(map(len, contents.values()))
            self._replies.await_reply(node, message.id, message.run_id, size)
            return _packed(message.answer, contents)

    def _give(self, scope: Scope, body: bytes) -> bytes:
        """Store a client's reply, which completes the message that it replies to."""
        request, contents = _unpacked(PushMessagesRequest, body)
        node = _own_node(scope, request.node.node_id)
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise HttpDenied(400, "is not one reply")
        reply = request.messages_list[0].metadata
        if reply.src_node_id != node:
            raise HttpDenied(403, "the reply is in the name of another client")
        with self._lock:
            self._replies.check(node, reply.reply_to_message_id)
            answered = self._store.push_reply(request, contents)
            self._replies.replied(node, reply.reply_to_message_id)
            self._sizes[reply.reply_to_message_id] = sum(map(len, contents.values()))
        return bytes(answered.SerializeToString())

    def _heartbeat(self, scope: Scope, body: bytes) -> bytes:
        """Note that a client is online."""
        request = _parsed(SendNodeHeartbeatRequest, body)
        _own_node(scope, request.node.node_id)
        with self._lock:
            return bytes(self._store.heartbeat(request).SerializeToString())

    def _send(self, scope: Scope, body: bytes) -> bytes:
        """Store a ServerApp's messages, until their clients pull them."""
        request, contents = _unpacked(PushAppMessagesRequest, body)
        with self._lock, self._store.session():
            return bytes(self._store.push_messages(self._task(scope), request, contents).SerializeToString())

    def _collect(self, scope: Scope, body: bytes) -> bytes:
        """Return the replies to a ServerApp's messages, as many as fit into an answer; empty: there are none."""
        asked = _parsed(PullAppMessagesRequest, body).message_ids
        replies = PullAppMessagesResponse()
        contents: dict[str, bytes] = {}
        with self._lock, self._store.session():
            task = self._task(scope)
            found = self._store.pull_replies(task, self._that_fit(asked))
            for head, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                objects = self._contents(task.run_id, tree)
                self._sizes.pop(head.metadata.reply_to_message_id, None)
                self._store.delete(tree.object_id)
                if objects is not None:
                    replies.messages_list.append(head)
                    replies.message_object_trees.append(tree)
                    contents |= objects
        return _packed(replies, contents) if contents else b""

    def _that_fit(self, asked: Sequence[str]) -> list[str]:
        """Return messages with replies that fit into one answer.

        Messages without a reply are included: Flower may have an error for them.
        """
        some, size = [], 0
        for id_ in asked:
            more = self._sizes.get(id_, 0)
            if not size or size + more <= MANY:
                some.append(id_)
                size += more
        return some

    def _task(self, scope: Scope) -> Any:
        """Return the task of the ServerApp that asks; raises `HttpDenied`."""
        task = self._store.task(header(scope, TASK) or "")
        if task is None:
            raise HttpDenied(401, "no running task has this token")
        return task

    def _contents(self, run_id: int, tree: Any) -> dict[str, bytes] | None:
        """Return a message's objects by their ids; None where one isn't there any more."""
        contents = self._store.contents(run_id, tree)
        if contents is None:
            log.warning("run %d: a message was deleted before it was delivered", run_id)
        return contents


def _own_node(scope: Scope, node: int) -> int:
    """Return the node that a request names; raises `HttpDenied` where it isn't the authenticated client's."""
    if NODE in scope and scope[NODE] != node:
        raise HttpDenied(401, "the node is not that of the client's key")
    return node


def _parsed(kind: type[T], body: bytes) -> T:
    """Return a body's protobuf message; raises `HttpDenied`."""
    try:
        parsed: T = kind.FromString(body)
    except DecodeError:
        raise HttpDenied(400, f"is no {kind.__name__}") from None
    return parsed


def _unpacked(kind: type[T], body: bytes) -> tuple[T, dict[str, bytes]]:
    """Return a body's request, and its objects by id; raises `HttpDenied` and `ValueError`."""
    return unpack(kind, _parsed(BytesList, body))


def _packed(head: Protobuf, contents: Mapping[str, bytes]) -> bytes:
    return bytes(pack(head, contents.values()).SerializeToString())


def _refusal(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON body of the answer to a request that failed; Flower's, for Flower's errors."""
    if isinstance(error, HttpDenied):
        return error.status, {"error": str(error)}
    if (known := error_answer(error)) is not None:
        return known
    if isinstance(error, ValueError):
        return 400, {"error": str(error)}
    log.error("a message could not be relayed: %s: %s", type(error).__name__, error)
    return 500, {"error": "the server can't relay messages; its log says why"}
