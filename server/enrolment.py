"""Which client is behind which node, and who is there.

Flower's node ids are random; a client is its partition. An engine of fedsim knows both; other Grids (a SuperLink's,
Flower's own simulation) are asked, node by node, once. A client that is away has no node until it comes back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from logging import INFO, WARNING
from typing import Protocol, runtime_checkable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import RunFailed
from fedsim.flower.log import log
from fedsim.records import record_in

PAUSE = 0.2  # seconds between two looks at who is there
PATIENCE = 60.0  # seconds that nodes have to say who they are


@runtime_checkable
class KnowsClients(Protocol):
    """A Grid that can say which node plays which client."""

    def client_nodes(self) -> Mapping[int, int]:
        """Return the node of each client."""


class Enrolment:
    """The clients of a run.

    Attributes:
        clients: How many there are, whether they are there or not: cohorts are drawn over all of them.
        nodes: The node of each client that is there.

    Args:
        grid: Knows its clients, or has nodes that answer a query.
        clients: How many there are.
        query: What nodes are told when they are asked who they are.
        registered: The client of each node, where the server knows it: nobody else is believed to be that client.
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
        self._client_of: dict[int, int] = {}  # of each node that has said who it is
        self._refused: dict[int, str] = {}  # nodes that are done without, and why
        if isinstance(grid, KnowsClients):
            self.nodes.update(grid.client_nodes())
        else:
            self.look()

    def look(self) -> None:
        """See who is there now.

        Raises:
            RunFailed: Two nodes say that they are the same client.
        """
        if isinstance(self._grid, KnowsClients):
            return
        online = list(self._grid.get_node_ids())
        self._ask(node for node in online if node not in self._client_of and node not in self._refused)
        there = {self._client_of[node]: node for node in online if node in self._client_of}
        self.nodes.clear()
        self.nodes.update(sorted(there.items()))

    def wait(self, timeout: float, *, hoped: int, least: int) -> None:
        """Wait until enough clients are there, or no more will come, or the time is over.

        Args:
            timeout: Seconds.
            hoped: How many are enough.
            least: How many must have come when the time is over.

        Raises:
            RunFailed: They have not.
        """
        end, told = time.monotonic() + timeout, -1
        while len(self.nodes) + len(self._refused) < hoped and time.monotonic() < end:
            if len(self.nodes) != told:
                told = len(self.nodes)
                log(INFO, "fedsim: %d of %d clients are there; waiting for others", told, self.clients)
            time.sleep(PAUSE)
            self.look()
        if len(self.nodes) < least:
            missing = sorted(set(range(self.clients)) - set(self.nodes))
            why = "".join(f"; {line}" for line in list(self._refused.values())[:1])
            raise RunFailed(
                f"enrolment: {len(missing)} of {self.clients} clients did not come, the first is {missing[0]}{why}"
            )

    def _ask(self, nodes: Iterable[int]) -> None:
        """Ask nodes who they are."""
        queries = [Message(self._query, node, MessageType.QUERY) for node in nodes]
        if not queries:
            return
        for reply in self._grid.send_and_receive(queries, timeout=PATIENCE):
            node = reply.metadata.src_node_id
            if reply.has_error():
                self._refuse(node, reply.error.reason or f"error {reply.error.code}")
                continue
            client = int(record_in(reply.content, ConfigRecord, "identity")["client"])  # type: ignore[arg-type]
            if not 0 <= client < self.clients:
                self._refuse(node, f"says that it is client {client} of {self.clients}")
            elif self._registered is not None and self._registered.get(node) != client:
                self._refuse(node, f"says that it is client {client}, and its key is another one's")
            elif client in self._client_of.values():
                raise RunFailed(f"enrolment: two nodes say that they are client {client}")
            else:
                self._client_of[node] = client

    def _refuse(self, node: int, why: str) -> None:
        """Do without a node for the rest of the run."""
        client = (self._registered or {}).get(node)
        who = f"node {node}" if client is None else f"client {client}"
        self._refused[node] = f"{who} does not take part: {why}"
        log(WARNING, self._refused[node])
