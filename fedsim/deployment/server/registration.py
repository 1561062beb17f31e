"""Registration of clients: the public keys in the server's `nodes.json`, each of which is a node of Flower's.

A server with keys refuses Flower's own requests for registration.
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
    from fedsim.flower.superlink import Nodes

log = logging.getLogger("fedsim.server")

HEARTBEAT = 30.0  # seconds between a node's heartbeats, until the client joins and names its own interval


class Registration:
    """The registered clients; `fedsim keys --add` may add clients while the server runs.

    Attributes:
        nodes: The node of each client.

    Args:
        folder: The server's key folder.
        database: Flower's nodes.
        list_file: JSON file of the node of each client, for ServerApps.
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
