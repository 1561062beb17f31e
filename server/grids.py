"""Grids that wrap another one, and how replies are folded over a tree that depends only on the cohort.

The clients, in order, are cut into blocks. A block is summed sequentially, then neighbouring blocks in pairs. So the
order of replies and the engine do not change any bit of the result. A failed client leaves its place empty.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from fedsim.flower.runs import Run
from fedsim.runtime import ClientsGrid, Fold, fold_groups

BLOCKS = 64  # at most; also the most workers that can fold
PAUSES = (0.01, 1.0)  # seconds between two polls for replies: at first, and at most

T = TypeVar("T")


@runtime_checkable
class FoldingGrid(Protocol):
    """A Grid that folds replies in its workers (`fedsim.runtime.ClientsGrid.send_and_fold`)."""

    def send_and_fold(
        self, groups: Sequence[Sequence[Message]], fold: Fold[Any], *, timeout: float | None = None
    ) -> Any:
        """Send messages and return the total of their replies."""


def blocks(messages: Sequence[Message]) -> list[Sequence[Message]]:
    """Cut a cohort's messages, in the order of the clients, into blocks."""
    size = -(-len(messages) // BLOCKS) or 1
    return [messages[start : start + size] for start in range(0, len(messages), size)]


def send_and_fold(grid: Grid, messages: Sequence[Message], fold: Fold[Any], timeout: float | None) -> Any:
    """Send a cohort's messages, in the order of the clients, and return the total of the replies that come in time.

    A `FoldingGrid` folds in its workers; the replies of another Grid are folded here. Without replies: None.
    """
    groups = blocks(messages)
    if isinstance(grid, FoldingGrid):
        return grid.send_and_fold(groups, fold, timeout=timeout)
    replies = {
        reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)
    }
    in_order = (replies.get(message.metadata.dst_node_id) for message in messages)
    return fold_groups(fold, [len(group) for group in groups], in_order)


def as_they_come(grid: Grid, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
    """Send messages and yield the replies, for at most `timeout` seconds.

    Flower's `send_and_receive` keeps all replies, and polls every three seconds.
    """
    waiting = set(grid.push_messages(messages))
    nodes = {message.metadata.dst_node_id for message in messages}
    end = float("inf") if timeout is None else time.monotonic() + timeout
    pause, longest = PAUSES
    while waiting and time.monotonic() < end:
        arrived = list(grid.pull_messages(waiting))
        waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
        pause = PAUSES[0] if arrived else min(2 * pause, longest)
        while arrived:
            reply = arrived.pop()
            if reply.metadata.src_node_id in nodes:  # else Flower reports an expired message
                yield reply
        if waiting:
            time.sleep(max(min(pause, end - time.monotonic()), 0))


class GridWrapper(Grid):
    """Wraps a Grid, `self._grid`; forwards what its subclasses have in common."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Set the run of the wrapped Grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the wrapped Grid."""
        return self._grid.run

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        """Create a message."""
        return self._grid.create_message(*arguments, **options)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the wrapped Grid."""
        return self._grid.get_node_ids()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies."""
        return self._grid.pull_messages(message_ids)


class CohortGrid(GridWrapper):
    """A view of a Grid in which only a round's cohort exists: the clients of `nodes`, which has the node of each.

    A Flower strategy samples from the Grid's nodes. Here these are the drawn clients, and with fractions of 1 it takes
    all of them.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, int]) -> None:
        super().__init__(grid)
        self.nodes = nodes
        self._client = {node: client for client, node in nodes.items()}

    @property
    def clients(self) -> list[int]:
        """The cohort, in ascending order."""
        return sorted(self._client.values())

    def client(self, node: int) -> int:
        """Return the client of a node of the cohort."""
        return self._client[node]

    def checked(self, messages: Iterable[Message]) -> list[Message]:
        """Return messages in the order of their clients; `ValueError` if one goes to a node outside the cohort."""
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
