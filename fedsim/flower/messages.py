"""Making messages: the identity under which this process makes them, and the error messages of Flower's SuperLink.

Flower keeps a run, a node and a task per process. The first error message takes about a second: its imports are large, and
few runs need them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Message
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


def unknown_message(message_id: str, run_id: int) -> Message:
    """Return the error for a message that isn't there: `ErrorCode.MESSAGE_UNAVAILABLE`."""
    from flwr.server.superlink.linkstate import utils

    return utils.create_message_error_unavailable_ins_message(message_id, run_id)


def no_node(message: Message) -> Message:
    """Return the error for a message to a node that isn't there: `ErrorCode.NODE_UNAVAILABLE`."""
    return _no_reply(message, "node_unavail")


def no_reply(message: Message) -> Message:
    """Return the error for a message with a lost reply: `ErrorCode.REPLY_MESSAGE_UNAVAILABLE`."""
    return _no_reply(message, "msg_unavail")


def _no_reply(message: Message, kind: str) -> Message:
    from flwr.server.superlink.linkstate import utils

    return utils.create_message_error_unavailable_res_message(message.metadata, kind)
