"""The identity under which this process makes messages: Flower keeps a run, a node and a task per process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.supercore.task_identity import TaskIdentity


def set_identity(node: int, run: int) -> None:
    """Let all messages that this process makes from now on come from a node of a run."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, 0


@contextmanager
def identity(node: int, run: int) -> Iterator[None]:
    """Let messages that are made inside the block come from a node of a run."""
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    set_identity(node, run)
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before
