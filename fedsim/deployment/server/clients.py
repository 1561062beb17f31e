"""The clients of a server: which are registered, and which processes use their keys at the moment.

A server with keys refuses Flower's own requests for registration: its clients are the public keys in `nodes.json`, each
of which is a node of Flower's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.deployment.keys import NODES, load_nodes
from fedsim.deployment.server.asgi import HttpDenied
from fedsim.errors import Refused
from fedsim.results.files import write_whole

if TYPE_CHECKING:
    from fedsim.flower.superlink import Nodes

log = logging.getLogger("fedsim.server")

HEARTBEAT = 30.0  # seconds between a node's heartbeats, until the client joins and names its own interval
HOLDS = 15.0  # seconds after its last request for which a process keeps its key
PRESENT = 60.0  # seconds after its last request for which a client counts as present
MINUTE = 60.0


class Registration:
    """The registered clients, by the server's key folder; `fedsim keys --add` may add clients while the server runs.

    The node of each client is written to `list_file` (JSON), for ServerApps.
    """

    def __init__(self, folder: Path, database: Nodes, list_file: Path) -> None:
        self._folder, self._database, self._list_file = folder, database, list_file
        self._clients: dict[bytes, int] = {}
        self._read_at = 0
        self.nodes: dict[int, int] = {}  # of each client
        self._read()

    def client(self, public_key: bytes) -> int | None:
        """Return the client of a public key (PEM), None if it isn't registered. An unknown key has `nodes.json` read again."""
        if public_key not in self._clients and self._changed() != self._read_at:
            try:
                self._read()
            except (Refused, OSError) as error:
                log.warning("%s; the clients registered before stay", error)
        return self._clients.get(public_key)

    def _changed(self) -> int:
        try:
            return (self._folder / NODES).stat().st_mtime_ns
        except OSError:
            return self._read_at

    def _read(self) -> None:
        changed, keys = self._changed(), load_nodes(self._folder)
        self._clients = {key: client for client, key in keys.items()}
        self.nodes = {client: self._database.register(key, HEARTBEAT) for client, key in keys.items()}
        self._read_at = changed
        write_whole(self._list_file, json.dumps(self.nodes).encode())


def client_list(database: Nodes, registration: Registration | None) -> list[dict[str, Any]]:
    """Return each client's number, node, and whether it is online.

    Without registration, clients have no numbers, and the list holds those that have joined before.
    """
    numbers = {} if registration is None else {node: client for client, node in registration.nodes.items()}
    online = database.online(None if registration is None else numbers)
    return [
        {"client": numbers.get(node), "node-id": node, "online": online[node]}
        for node in sorted(online, key=lambda node: numbers.get(node, 0))
    ]


def fingerprint(public_key: bytes) -> str:
    """Return 16 hex digits of a public key's SHA-256, for the log."""
    return hashlib.sha256(public_key).hexdigest()[:16]


@dataclass
class _Holder:
    instance: str
    heard: float


class Presence:
    """Refuses a second process with the same key, too many clients at a time, and too many joins a minute.

    `max_nodes` counts the clients present at a time; None: no limit. `now` is a monotonic clock, in seconds.
    """

    def __init__(
        self,
        max_nodes: int | None = None,
        joins_per_minute: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_nodes, self._joins_per_minute, self._now = max_nodes, joins_per_minute, now
        self._holders: dict[bytes, _Holder] = {}
        self._joins: deque[float] = deque()

    def check(self, key: bytes, instance: str) -> None:
        """Note a request of a process; raises `HttpDenied` (409) while another process has the key."""
        now, holder = self._now(), self._holders.get(key)
        if holder is None:
            return
        if holder.instance == instance:
            holder.heard = now
        elif (silent := now - holder.heard) < HOLDS:
            raise HttpDenied(
                409,
                f"another process has this client's key and was heard of {silent:.0f} s ago; "
                f"one at a time, {HOLDS:.0f} s apart",
            )

    def check_join(self, key: bytes) -> None:
        """Note that a client joins; raises `HttpDenied`: 429 for too many joins a minute, 403 for too many clients."""
        now = self._now()
        while self._joins and now - self._joins[0] >= MINUTE:
            self._joins.popleft()
        joins = len(self._joins)
        if self._joins_per_minute is not None and joins >= self._joins_per_minute:
            raise HttpDenied(429, f"clients have joined {joins} times within a minute, the most allowed")
        others = sum(k != key and now - holder.heard < PRESENT for k, holder in self._holders.items())
        if self._max_nodes is not None and others >= self._max_nodes:
            raise HttpDenied(403, f"{others} clients have joined, the most allowed")
        self._joins.append(now)

    def served(self, key: bytes, instance: str) -> None:
        """Note that a request of a process was served: the process has the key now."""
        self._holders[key] = _Holder(instance, self._now())

    def left(self, key: bytes) -> None:
        """Note that a client has left: its key is free."""
        self._holders.pop(key, None)
