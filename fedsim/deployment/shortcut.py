"""Flower's answers to the requests that every message takes, without the layers in front of its handlers.

Those cost ten times what a handler does: translation, routing and middleware for each of some fifteen requests a message.
The gate has authenticated the client already, so what is left is to see that it speaks for its own node; a ServerApp has
its task's token, as ever. Whatever goes wrong, the request goes Flower's own way, and Flower says what it is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from fedsim.deployment.asgi import Gone, header, read_body, replay

if TYPE_CHECKING:
    from flwr.server.superlink.linkstate import LinkState

NODE = "fedsim.node"  # in a request's scope: the node that the gate has found it to come from
TASK = "flwr-task-token"
FLEET, RUNTIME = "/v1/fleet/", "/v1/runtime/"
MEDIA_TYPE = b"application/protobuf"


@dataclass(frozen=True)
class _Route:
    """A request, and who answers it.

    Attributes:
        kind: The protobuf message that the body is.
        handle: Makes the answer out of the request, and a task.
    """

    kind: Any
    handle: Callable[[Any, Any], Any]


class Shortcut:
    """Flower's app, some of whose requests are answered by its handlers directly.

    Args:
        app: Flower's.
        state: Its state.
    """

    def __init__(self, app: ASGIApp, state: LinkState) -> None:
        self._app = app
        self._state = state
        self._routes = {**_fleet(state), **_runtime(state)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or (scope["path"].startswith(FLEET) and NODE not in scope):
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(scope, receive, limit=math.inf)
        except Gone:
            return
        answer = await asyncio.to_thread(self._answer, route, scope, body)
        if answer is None:
            await self._app(scope, replay(body, receive), send)
            return
        headers = [(b"content-type", MEDIA_TYPE), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, route: _Route, scope: Scope, body: bytes) -> bytes | None:
        """Return the answer; None where the request is for Flower to refuse."""
        try:
            request = route.kind.FromString(body)
            if scope["path"].startswith(FLEET):
                if request.node.node_id != scope[NODE]:
                    return None
                return bytes(route.handle(request, None).SerializeToString())
            task = self._state.get_task_by_token(header(scope, TASK) or "")
            return None if task is None else bytes(route.handle(request, task).SerializeToString())
        except Exception:  # Flower's own way ends with the same, and says so
            return None


def _fleet(state: LinkState) -> dict[str, _Route]:
    """Return the requests of a client that come with every message."""
    from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
    from flwr.superlink.servicer.fleet import fleet_handlers as flower

    store = state.object_store
    routes = {
        "pull-messages": _Route(
            fleet_pb2.PullMessagesRequest, lambda r, _: flower.pull_messages(r, state, store)
        ),
        "push-messages": _Route(fleet_pb2.PushMessagesRequest, lambda r, _: flower.push_messages(r, state)),
        "pull-object": _Route(message_pb2.PullObjectRequest, lambda r, _: flower.pull_object(r, state)),
        "push-object": _Route(message_pb2.PushObjectRequest, lambda r, _: flower.push_object(r, state)),
        "confirm-message-received": _Route(
            message_pb2.ConfirmMessageReceivedRequest,
            lambda r, _: flower.confirm_message_received(r, state, store),
        ),
        "send-node-heartbeat": _Route(
            heartbeat_pb2.SendNodeHeartbeatRequest, lambda r, _: flower.send_node_heartbeat(r, state)
        ),
    }
    return {FLEET + name: route for name, route in routes.items()}


def _runtime(state: LinkState) -> dict[str, _Route]:
    """Return the requests of a ServerApp that come with every message."""
    from flwr.proto import message_pb2, runtime_pb2
    from flwr.superlink.servicer.runtime import runtime_handlers as flower

    routes = {
        "pull-messages": _Route(
            runtime_pb2.PullAppMessagesRequest, lambda r, task: flower.pull_messages(r, state, task)
        ),
        "push-messages": _Route(
            runtime_pb2.PushAppMessagesRequest, lambda r, task: flower.push_messages(r, state, task)
        ),
        "pull-object": _Route(
            message_pb2.PullObjectRequest, lambda r, task: flower.pull_object(r, state, task)
        ),
        "push-object": _Route(
            message_pb2.PushObjectRequest, lambda r, task: flower.push_object(r, state, task)
        ),
        "confirm-message-received": _Route(
            message_pb2.ConfirmMessageReceivedRequest,
            lambda r, task: flower.confirm_message_received(r, state, task),
        ),
    }
    return {RUNTIME + name: route for name, route in routes.items()}
