"""Which client is behind which node.

Flower's node ids are random and new in each run; a client is its partition. An engine of fedsim knows both;
other Grids (a SuperLink's, Flower's own simulation) are asked, node by node.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import RunFailed


@runtime_checkable
class KnowsClients(Protocol):
    """A Grid that can say which node plays which client."""

    def client_nodes(self) -> Mapping[int, int]:
        """Return the node of each client."""


def enrol(grid: Grid, clients: int, timeout: float) -> dict[int, int]:
    """Return the node of each of `clients` clients.

    Args:
        grid: Knows its clients, or has nodes that answer a query.
        clients: How many there must be.
        timeout: Seconds to wait for them.

    Raises:
        RunFailed: A client is missing, or two nodes say that they are the same one.
    """
    if isinstance(grid, KnowsClients):
        return dict(grid.client_nodes())
    end = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) < clients and time.monotonic() < end:
        time.sleep(0.2)
    queries = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    enrolled: dict[int, int] = {}
    for reply in grid.send_and_receive(queries, timeout=max(end - time.monotonic(), 1.0)):
        if reply.has_error():
            continue
        client = int(reply.content.config_records["identity"]["client"])  # type: ignore[arg-type]
        if client in enrolled:
            raise RunFailed(f"enrolment: two nodes say that they are client {client}")
        enrolled[client] = reply.metadata.src_node_id
    missing = sorted(set(range(clients)) - set(enrolled))
    if missing:
        raise RunFailed(
            f"enrolment: {len(missing)} of {clients} clients did not come, the first is {missing[0]}"
        )
    return {client: enrolled[client] for client in range(clients)}
