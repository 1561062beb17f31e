"""Who may join: the keys in the server's `nodes.json`, known to Flower as nodes.

Flower's own registration is closed: keys come in by this file alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.deployment.keys import NODES, load_nodes
from fedsim.errors import Refused
from fedsim.results.files import write_whole

if TYPE_CHECKING:
    from fedsim.flower.nodes import Nodes

log = logging.getLogger("fedsim.server")

HEARTBEAT = 30.0  # seconds; a client says its own when it joins


class Registration:
    """The registered clients; `fedsim keys --add` adds to them while the server runs.

    Attributes:
        nodes: The Flower node that each client is.

    Args:
        folder: The server's keys.
        database: Flower's nodes.
        list_file: Where ServerApps read which node is which client.
    """

    def __init__(self, folder: Path, database: Nodes, list_file: Path) -> None:
        self._folder = folder
        self._database = database
        self._list_file = list_file
        self._clients: dict[bytes, int] = {}
        self._read_at = 0
        self.nodes: dict[int, int] = {}
        self._read()

    def client(self, public_key: bytes) -> int | None:
        """Return the client that a key (PEM) is registered for; an unknown key has `nodes.json` looked at again."""
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
    """Return what is known of each client: number, node, and whether it was heard of lately.

    Without registration there are no numbers, and only those that have joined once.
    """
    numbers = {} if registration is None else {node: client for client, node in registration.nodes.items()}
    online = database.online(None if registration is None else numbers)
    return [
        {"client": numbers.get(node), "node-id": node, "online": online[node]}
        for node in sorted(online, key=lambda node: numbers.get(node, 0))
    ]


def fingerprint(public_key: bytes) -> str:
    """Return what a log calls a key that it has no better name for."""
    return hashlib.sha256(public_key).hexdigest()[:16]
