"""A Grid restricted to one round's cohort, for strategies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from fedsim.runtime import ClientsGrid, Fold
from fedsim.server.grids.folding import send_and_fold
from fedsim.server.grids.wrapper import GridWrapper

T = TypeVar("T")


class CohortGrid(GridWrapper):
    """A view of a Grid in which only the cohort's nodes exist.

    A Flower strategy samples from the Grid's nodes. Here these are the drawn clients, and with fractions of 1 it takes
    all of them.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, int]) -> None:
        """Make a view; `nodes` maps the cohort's clients to their nodes."""
        super().__init__(grid)
        self._client = {node: client for client, node in nodes.items()}

    @property
    def clients(self) -> list[int]:
        """The cohort, in ascending order."""
        return sorted(self._client.values())

    def client(self, node: int) -> int:
        """Return the client of a node of the cohort."""
        return self._client[node]

    def checked(self, messages: Iterable[Message]) -> list[Message]:
        """Return messages in the order of their clients.

        Raises:
            ValueError: One goes to a node outside the cohort.
        """
        listed = list(messages)
        for message in listed:
            if message.metadata.dst_node_id not in self._client:
                raise ValueError(f"node {message.metadata.dst_node_id} is not in this round's cohort")
        return sorted(listed, key=lambda message: self._client[message.metadata.dst_node_id])

    def get_node_ids(self) -> Iterable[int]:
        """Return the cohort's nodes."""
        return list(self._client)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages to the cohort; raises `ValueError` for another client."""
        return self._grid.push_messages(self.checked(messages))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to the cohort and wait for the replies; raises `ValueError` for another client.

        Late clients are dropped; a simulation cancels their messages and frees their workers. Flower's own error for an
        expired message is not returned.
        """
        sent = self.checked(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        if isinstance(self._grid, ClientsGrid) and len(replies) < len(sent):
            self._grid.give_up(sent)
        return [reply for reply in replies if reply.metadata.src_node_id in self._client]

    def send_and_fold(self, messages: Iterable[Message], fold: Fold[T], *, timeout: float | None) -> T | None:
        """Send messages to the cohort and return the total of the replies; errors as `push_messages`."""
        total: T | None = send_and_fold(self._grid, self.checked(messages), fold, timeout)
        return total
