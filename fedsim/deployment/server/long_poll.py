"""Long polling: a pull that finds no message waits on the server until one arrives, or its time is over.

A pull asks for it by the header `Fedsim-Hold: SECONDS`. Flower's own clients don't, and are answered at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.types import ASGIApp, Receive, Scope, Send

from fedsim.deployment.server.asgi import Disconnected, Response, ask, header, read_body
from fedsim.deployment.wire import HOLD
from fedsim.flower.paths import COLLECT, GIVE, SEND, TAKE
from fedsim.flower.protocol import BytesList, PullMessagesRequest, PushAppMessagesRequest

LONGEST = 20.0  # seconds that a pull waits, at most
APP_INTERVAL = (
    1.0  # seconds after which a ServerApp's pull is repeated: no push announces Flower's error replies
)
PATHS = {TAKE, GIVE, SEND, COLLECT}

Topic = int | None  # of a waiting pull: messages for a node, or (None) replies for a ServerApp


class LongPoll:
    """An ASGI app that holds the pulls to another one.

    It sees each push, and repeats the waiting pulls that the push may answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._news: dict[Topic, asyncio.Event] = {}
        self._is_closed = False

    def close(self) -> None:
        """Answer all waiting pulls, and hold no more."""
        self._is_closed = True
        self._announce(list(self._news))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(scope, receive, limit=math.inf)
            if scope["path"] in (TAKE, COLLECT):
                response = await self._pull(scope, body, receive)
            else:
                response = await ask(self._app, scope, body, receive)
        except Disconnected:
            return
        if response.status == 200:
            self._announce(_pushed_to(scope["path"], body))
        await response.send(send)

    async def _pull(self, scope: Scope, body: bytes, receive: Receive) -> Response:
        """Return the answer to a pull, empty only after its time is over; raises `Disconnected` if the caller has left."""
        until = time.monotonic() + _seconds(header(scope, HOLD))
        interval = APP_INTERVAL if scope["path"] == COLLECT else LONGEST
        topic = _pulled_for(scope["path"], body)
        disconnect = asyncio.ensure_future(receive())
        try:
            while True:
                news = self._news.setdefault(topic, asyncio.Event())
                response = await ask(self._app, scope, body, _never)
                left = until - time.monotonic()
                if left <= 0 or self._is_closed or response.status != 200 or response.body:
                    return response
                waiting = asyncio.ensure_future(news.wait())
                seconds = min(left, interval)
                await asyncio.wait(
                    {waiting, disconnect}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
                waiting.cancel()
                if disconnect.done():
                    raise Disconnected
        finally:
            disconnect.cancel()

    def _announce(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            if (news := self._news.pop(topic, None)) is not None:
                news.set()


async def _never() -> Any:
    await asyncio.Event().wait()


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST) if math.isfinite(seconds) else 0.0


def _pulled_for(path: str, body: bytes) -> Topic:
    if path == COLLECT:
        return None
    try:
        return int(PullMessagesRequest.FromString(body).node.node_id)
    except DecodeError:
        return 0  # no node has this id; the app refuses the request


def _pushed_to(path: str, body: bytes) -> list[Topic]:
    if path == GIVE:
        return [None]
    if path == SEND:
        messages = PushAppMessagesRequest.FromString(BytesList.FromString(body).vals[0]).messages_list
        return list({message.metadata.dst_node_id for message in messages})
    return []
