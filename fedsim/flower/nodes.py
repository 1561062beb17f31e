"""The nodes in a SuperLink's database."""

from __future__ import annotations

from collections.abc import Collection

from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState


class Nodes:
    """Nodes by their public keys (PEM).

    Args:
        state: Flower's, over its database.
    """

    def __init__(self, state: LinkState) -> None:
        self._state = state

    def register(self, public_key: bytes, heartbeat: float) -> int:
        """Return the node of a key, which is made where there is none.

        Args:
            public_key: Of the node.
            heartbeat: Seconds between its heartbeats, until it says otherwise.
        """
        known = self._state.get_node_id_by_public_key(public_key)
        if known is not None:
            return known
        return self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, heartbeat)

    def take_offline(self, public_key: bytes) -> None:
        """Mark the node of a key as offline: Flower refuses a node that joins while it is online, as after a kill."""
        node = self._state.get_node_id_by_public_key(public_key)
        if node is not None:
            self._state.deactivate_node(node)

    def online(self, nodes: Collection[int] | None) -> dict[int, bool]:
        """Return whether each node is online, by its id; None: all nodes that Flower knows."""
        found = self._state.get_node_info(node_ids=None if nodes is None else list(nodes))
        return {info.node_id: info.status == "online" for info in found}
