"""What both ends of a connection agree on: the server's address, names, and how a refusal says its reason."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsim.errors import Refused

if TYPE_CHECKING:
    import httpx

HOLD = "Fedsim-Hold"  # header of a pull: seconds for which the server may hold an empty answer back (long polling)
INSTANCE = "Fedsim-Instance"  # header of a client's requests: random hex digits, which name its process
TASK = "flwr-task-token"  # Flower's header of a ServerApp's requests
NODE = "fedsim.node"  # key of a request's ASGI scope: the node of the client that was authenticated
RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a run directory
MANY = 64 * 2**20  # bytes of a request or answer with several messages; with one it may be larger


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    >>> Address.parse("127.0.0.1:9091").is_loopback, Address.parse("[2001:db8::1]:9091").is_loopback
    (True, False)
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`; raises `Refused`."""
        host, colon, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not re.fullmatch(r"[A-Za-z0-9._:%-]+", host) or not port.isdecimal():
            raise Refused(f"--on {text!r}: must be HOST:PORT, as in 127.0.0.1:9091")
        if not 0 < int(port) < 2**16:
            raise Refused(f"--on {text!r}: the port must be from 1 to 65535")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be meant."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name `localhost`, can be reached from this machine only."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def reason_of(response: httpx.Response) -> str:
    """Return the reason in the body of an HTTP refusal, in one line; without one the phrase of its status."""
    try:
        tree = response.json()
    except ValueError:
        tree = None
    said = tree.get("error", tree.get("detail")) if isinstance(tree, dict) else None
    extra = f" {tree['extra']}" if isinstance(tree, dict) and "extra" in tree else ""
    text = f"{said}{extra}" if said else response.reason_phrase or f"status {response.status_code}"
    return " ".join(text.split())[:300]
