"""Connections on which no whole request has come yet: none may stay so, and no address may have many.

A caller that opens connections and says nothing, or never ends its handshake or a request's header, would otherwise hold
them for ever. The body of a request has its own limits (`fedsim.deployment.server.asgi`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from fedsim.deployment.server.refusal_log import RefusalLog

PATIENCE = 20.0  # seconds for a handshake and a request's header
MOST = 256  # such connections of one address; above, its oldest is closed
Peer = tuple[str, int]  # address and port


class Waiting:
    """The connections of an event loop that wait for a request.

    Attributes:
        refusals: The log of what is refused.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.refusals = RefusalLog()
        self._loop = loop
        self._addresses: dict[str, dict[int, _Connection]] = {}  # by address and port, the oldest first

    def begin(self, peer: Peer, transport: asyncio.Transport) -> None:
        """Note that a connection waits for a request, unless it is noted already."""
        host, port = peer
        connections = self._addresses.setdefault(host, {})
        if port in connections:
            return
        if len(connections) >= MOST:
            why = f"connection: {MOST} more of this address wait for a request, so the oldest was closed"
            self._close((host, next(iter(connections))), why)
            connections = self._addresses.setdefault(host, {})
        late = f"connection: no whole request came within {PATIENCE:.0f} s"
        connections[port] = _Connection(transport, self._loop.call_later(PATIENCE, self._close, peer, late))

    def end(self, peer: Peer) -> None:
        """Note that a request has come, or that the connection is gone."""
        host, port = peer
        connections = self._addresses.get(host, {})
        if (connection := connections.pop(port, None)) is not None:
            connection.timer.cancel()
        if not connections:
            self._addresses.pop(host, None)

    def count(self, host: str) -> int:
        """Return how many connections of an address wait."""
        return len(self._addresses.get(host, {}))

    def _close(self, peer: Peer, why: str) -> None:
        host, port = peer
        transport = self._addresses[host][port].transport
        self.end(peer)
        if not transport.is_closing():  # as after a failed handshake
            self.refusals.refused(host, f"{host}:{port}", why)
            transport.abort()


@dataclass(frozen=True)
class _Connection:
    transport: asyncio.Transport
    timer: asyncio.TimerHandle


class WaitingProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP, which notes while its connection waits for a request; its loop has a `Waiting`."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._note()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and wait on if they don't end a request's header."""
        super().data_received(data)
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        if self.client is not None:
            self.loop.waiting.end(self.client)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        host, port = self.client or ("an unknown address", 0)
        self.loop.waiting.refusals.refused(host, f"{host}:{port}", "connection: it did not speak HTTP")
        super().send_400_response(msg)

    def _note(self) -> None:
        if self.client is None or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.loop.waiting.end(self.client)
        else:
            self.loop.waiting.begin(self.client, self.transport)
