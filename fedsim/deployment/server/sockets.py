"""A server's sockets, and TLS over them. Each failed handshake is logged, with the peer's address.

asyncio drops such a connection silently: an operator would not learn of a client with another authority, or of one that
speaks plain HTTP. `do_handshake` has the error, and the event loop the address.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.deployment.server.refusal_log import RefusalLog
from fedsim.deployment.server.waiting import Peer, Waiting
from fedsim.deployment.wire import Address
from fedsim.errors import Refused

NAMED = {"127.0.0.1", "::1"}  # in every server's certificate
OWN_OF_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
BACKLOG = 2048
REASONS = {
    "HTTP_REQUEST": "it spoke plain HTTP; TLS is needed (https://)",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust this server's certificate authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this server's certificate (another name or address?)",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "this server's certificate has expired",
    "WRONG_VERSION_NUMBER": "it did not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it spoke a version of TLS below 1.2",
}


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the socket of a server, and a second one at 127.0.0.1 unless the first includes 127.0.0.1 or ::1.

    The host 0.0.0.0 or :: means all addresses of this machine, the port 0 a free one. Raises `Refused` where this
    machine has no such address, or the port is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        first = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise Refused(f"--host {host!r} --port {port}: {_reason(error)}") from None
    if first.getsockname()[0] in NAMED | OWN_OF_ALL.keys():
        return [first]
    taken = first.getsockname()[1]
    try:
        return [first, socket.create_server(("127.0.0.1", taken), backlog=BACKLOG)]
    except OSError as error:
        first.close()
        raise Refused(f"--port {taken}: on 127.0.0.1: {_reason(error)}") from None


def own_address(sockets: Sequence[socket.socket]) -> str:
    """Return the address at which processes of this machine reach the server, as `HOST:PORT`."""
    host, port = sockets[-1].getsockname()[:2]
    return str(Address(OWN_OF_ALL.get(host, host), port))


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno is None:
        return str(error.strerror or error)
    return os.strerror(error.errno)  # without the address, which the caller's message has


class _Handshake(ssl.SSLObject):
    """A connection's TLS, which logs why its handshake failed."""

    peer: Peer = ("an unknown address", 0)
    refusals = RefusalLog()

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            reason = REASONS.get(error.reason or "", f"TLS: {error.reason or error}")
            host, port = self.peer
            self.refusals.refused(host, f"{host}:{port}", f"connection: {reason}")
            raise


class _Named:
    """An SSL context for one connection, which gives it the peer's address, and the log of refusals."""

    def __init__(self, context: ssl.SSLContext, peer: Peer, refusals: RefusalLog) -> None:
        self._context = context
        self._peer, self._refusals = peer, refusals

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        wrapped = self._context.wrap_bio(*arguments, **options)
        if isinstance(wrapped, _Handshake):
            wrapped.peer, wrapped.refusals = self._peer, self._refusals
        return wrapped


class Loop(asyncio.SelectorEventLoop):
    """An event loop with TLS connections that know their peers' addresses during the handshake.

    Attributes:
        waiting: The connections that wait for a request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting(self)

    def _make_ssl_transport(
        self, rawsock: Any, protocol: Any, sslcontext: Any, *arguments: Any, **options: Any
    ) -> Any:
        peer = (options.get("extra") or {}).get("peername")
        caller: Peer | None = peer[:2] if options.get("server_side") and peer else None
        if caller is not None:
            sslcontext = _Named(sslcontext, caller, self.waiting.refusals)
        make = super()._make_ssl_transport  # type: ignore[misc]
        transport = make(rawsock, protocol, sslcontext, *arguments, **options)
        if caller is not None:  # until the protocol's request has come
            self.waiting.begin(caller, transport)
        return transport


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's TLS context: version 1.2 or later, failed handshakes logged."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = _Handshake
    context.load_cert_chain(certificate, key)
    return context
