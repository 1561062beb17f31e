"""Enrolment: which client runs on which node, and which clients are online.

Flower's node ids are random; a client's number is its partition. fedsim's engines know both. On other Grids (a
SuperLink's, Flower's simulation) the server queries each node once. An offline client has no node.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from logging import INFO, WARNING
from typing import Protocol, runtime_checkable

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import RunFailed
from fedsim.flower.log import log
from fedsim.server.aggregation.replies import read_identity

POLL_INTERVAL = 0.2  # seconds between two checks which clients are online
QUERY_TIMEOUT = 60.0  # seconds that nodes have to answer the query


@runtime_checkable
class KnowsClients(Protocol):
    """A Grid that knows each client's node."""

    def client_nodes(self) -> Mapping[int, int]:
        """Return the node of each client."""


class Enrolment:
    """The clients of a run.

    Args:
        grid: Knows its clients, or has nodes that answer a query.
        clients: Number of clients, online or not: cohorts are drawn from all of them.
        query: Content of the query.
        registered: The client of each registered node; other nodes can't enrol. None: nodes are not registered.

    Attributes:
        nodes: The node of each online client.
    """

    def __init__(
        self,
        grid: Grid,
        clients: int,
        *,
        query: RecordDict | None = None,
        registered: Mapping[int, int] | None = None,
    ) -> None:
        self.clients = clients
        self.nodes: dict[int, int] = {}
        self._grid = grid
        self._query = query or RecordDict()
        self._registered = registered
        self._client_of: dict[int, int] = {}  # by node, once it has answered the query
        self._refused: dict[int, str] = {}  # the reason, by refused node
        if isinstance(grid, KnowsClients):
            self.nodes.update(grid.client_nodes())
        else:
            self.refresh()

    def refresh(self) -> None:
        """Update `nodes`; of two nodes that claim to be the same client, the first takes part."""
        if isinstance(self._grid, KnowsClients):
            return
        online = list(self._grid.get_node_ids())
        self._ask(node for node in online if node not in self._client_of and node not in self._refused)
        nodes = {self._client_of[node]: node for node in online if node in self._client_of}
        self.nodes.clear()
        self.nodes.update(sorted(nodes.items()))

    def wait(self, timeout: float, *, hoped: int, least: int) -> None:
        """Wait at most `timeout` seconds for `hoped` clients; `RunFailed` if fewer than `least` are online then."""
        end, logged = time.monotonic() + timeout, -1
        while len(self.nodes) + len(self._refused) < hoped and time.monotonic() < end:
            if len(self.nodes) != logged:
                logged = len(self.nodes)
                log(INFO, "fedsim: %d of %d clients are online; waiting for others", logged, self.clients)
            time.sleep(POLL_INTERVAL)
            self.refresh()
        if len(self.nodes) < least:
            missing = sorted(set(range(self.clients)) - set(self.nodes))
            why = "".join(f"; {line}" for line in list(self._refused.values())[:1])
            raise RunFailed(
                f"enrolment: {len(missing)} of {self.clients} clients did not enrol, the first is {missing[0]}{why}"
            )

    def _ask(self, nodes: Iterable[int]) -> None:
        """Query nodes for their clients."""
        queries = [Message(self._query, node, MessageType.QUERY) for node in nodes]
        replies = self._grid.send_and_receive(queries, timeout=QUERY_TIMEOUT) if queries else ()
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                client = read_identity(reply, self.clients)
            except ValueError as error:
                self._refuse(node, str(error))
                continue
            if self._registered is not None and self._registered.get(node) != client:
                why = f"claims to be client {client}, but its key is not registered for that client"
                self._refuse(node, why)
            elif client in self._client_of.values():
                self._refuse(node, f"claims to be client {client}, as another node does")
            else:
                self._client_of[node] = client

    def _refuse(self, node: int, why: str) -> None:
        """Exclude a node for the rest of the run."""
        client = (self._registered or {}).get(node)
        who = f"node {node}" if client is None else f"client {client}"
        self._refused[node] = f"{who} does not take part: {why}"
        log(WARNING, self._refused[node])
