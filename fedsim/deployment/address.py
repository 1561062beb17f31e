"""The address of a server, as `HOST:PORT`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from fedsim.errors import Refused


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
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
