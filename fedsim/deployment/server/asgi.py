"""Helpers of the ASGI apps around Flower's: whole request bodies, JSON answers, refusals."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIB = 2**20
PATIENCE = 60.0  # seconds without a byte after which a request that is not whole is refused


class HttpDenied(Exception):
    """The server refuses a request by an HTTP status; the message is one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Disconnected(Exception):
    """The other side has closed the connection before its request was answered."""


def header(scope: Scope, name: str) -> str | None:
    """Return a request's header; None where it is absent or repeated."""
    wanted = name.lower().encode()
    values = [value for key, value in scope["headers"] if key == wanted]
    return values[0].decode("latin-1") if len(values) == 1 else None


async def read_body(scope: Scope, receive: Receive, limit: float) -> bytes:
    """Return a request's whole body; raises `HttpDenied` if it is larger than `limit` bytes or halts, and `Disconnected`."""
    declared = header(scope, "content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(int(declared), limit)
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout(PATIENCE):
                message = await receive()
        except TimeoutError:
            raise HttpDenied(408, f"no more of the request came for {PATIENCE:.0f} s") from None
        if message["type"] != "http.request":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(len(body), limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(size: int, limit: float) -> HttpDenied:
    return HttpDenied(413, f"the request has {size / MIB:.1f} MiB or more; {limit / MIB:.1f} are allowed")


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields a body that was read before, and then what another `receive` yields."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer(send: Send, status: int, tree: dict[str, Any]) -> None:
    """Answer a request with JSON."""
    await respond(send, status, b"application/json", json.dumps(tree).encode())


async def respond(send: Send, status: int, media_type: bytes, content: bytes) -> None:
    """Answer a request with bytes of a media type."""
    headers = [(b"content-type", media_type), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@dataclass
class Response:
    """An app's answer, as its ASGI messages."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The HTTP status; 500 where the app has not answered."""
        return int(self.messages[0]["status"]) if self.messages else 500

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    async def send(self, send: Send) -> None:
        """Send the answer."""
        for message in self.messages:
            await send(message)


async def ask(app: ASGIApp, scope: Scope, body: bytes, receive: Receive) -> Response:
    """Return an app's answer to a request with a body that was read before."""
    response = Response()

    async def keep(message: Message) -> None:
        response.messages.append(message)

    await app(dict(scope), replay(body, receive), keep)
    return response
