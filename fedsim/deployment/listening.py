"""The sockets that a server listens on."""

from __future__ import annotations

import ipaddress
import os
import socket

from fedsim.errors import Refused

LOOPBACK = "127.0.0.1"
BACKLOG = 2048


def is_loopback(host: str) -> bool:
    """Say whether an address, or the name `localhost`, reaches this machine alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the sockets of a server: its own, and one for its own machine where that can't be reached by the first.

    Args:
        host: A name or address of this machine; 0.0.0.0 and :: are all of them.
        port: 0: a free one.

    Raises:
        Refused: There is no such address here, or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        first = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise Refused(f"--host {host!r} --port {port}: {_reason(error)}") from None
    if is_loopback(str(address[0])) or ipaddress.ip_address(address[0]).is_unspecified:
        return [first]
    taken = first.getsockname()[1]
    try:
        return [first, socket.create_server((LOOPBACK, taken), backlog=BACKLOG)]
    except OSError as error:
        first.close()
        raise Refused(f"--port {taken}: on {LOOPBACK}: {_reason(error)}") from None


def own_address(host: str, port: int) -> str:
    """Return where the server's own machine reaches it, as `host:port`."""
    if not is_loopback(host):
        return f"{'[::1]' if host == '::' else LOOPBACK}:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno is None:
        return str(error.strerror or error)
    return os.strerror(error.errno)  # without the address, which the message has
