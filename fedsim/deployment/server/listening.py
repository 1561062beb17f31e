"""The sockets of a server."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence

from fedsim.errors import Refused

NAMED = {"127.0.0.1", "::1"}  # in every server's certificate
OWN_OF_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
BACKLOG = 2048


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name `localhost`, can be reached from this machine only."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the socket of a server, and a second one at 127.0.0.1 unless the first includes 127.0.0.1 or ::1.

    Args:
        host: A name or address of this machine; 0.0.0.0 and :: are all addresses.
        port: 0: a free port.

    Raises:
        Refused: This machine has no such address, or the port is in use.
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
    host = OWN_OF_ALL.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno is None:
        return str(error.strerror or error)
    return os.strerror(error.errno)  # without the address, which the caller's message has
