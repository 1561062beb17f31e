"""Sending a cohort's messages and folding the replies: over a tree that the cohort alone fixes.

The clients in order are cut into blocks; within a block one after another is added, then neighbouring blocks in pairs. So
the order in which replies come, and who computes, leave every bit as it is; a client that failed leaves its place empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from fedsim.runtime import Fold, fold_groups

BLOCKS = 64  # at most, and so many workers find work at most


@runtime_checkable
class FoldingGrid(Protocol):
    """A Grid that folds replies where they are (`fedsim.runtime.ClientsGrid.send_and_fold`)."""

    def send_and_fold(
        self, groups: Sequence[Sequence[Message]], fold: Fold[Any], *, timeout: float | None = None
    ) -> Any:
        """Send messages and return the total of their replies."""


def blocks(messages: Sequence[Message]) -> list[Sequence[Message]]:
    """Cut a cohort's messages, in the order of its clients, into the blocks of the tree."""
    size = -(-len(messages) // BLOCKS) or 1
    return [messages[start : start + size] for start in range(0, len(messages), size)]


def send_and_fold(grid: Grid, messages: Sequence[Message], fold: Fold[Any], timeout: float | None) -> Any:
    """Send a cohort's messages and return the total of the replies; None if none came in time.

    Args:
        grid: Folds where the replies are if it can, else they come here.
        messages: In the order of the clients.
        fold: What to make of the replies.
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
