"""Sends a cohort's messages and folds the replies over a tree that depends only on the cohort.

The clients, in order, are cut into blocks. A block is summed sequentially, then neighbouring blocks in pairs. So the
order of replies and the engine do not change any bit of the result. A failed client leaves its place empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from fedsim.runtime import Fold, fold_groups

BLOCKS = 64  # at most; also the most workers that can fold


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
    """Send a cohort's messages and return the total of the replies; None if none came in time.

    Args:
        grid: A `FoldingGrid` folds in its workers; with another Grid, replies are folded here.
        messages: In the order of the clients.
        fold: Combines the replies.
        timeout: Seconds to wait.
    """
    groups = blocks(messages)
    if isinstance(grid, FoldingGrid):
        return grid.send_and_fold(groups, fold, timeout=timeout)
    replies = {
        reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)
    }
    in_order = (replies.get(message.metadata.dst_node_id) for message in messages)
    return fold_groups(fold, [len(group) for group in groups], in_order)
