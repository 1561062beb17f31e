"""The error messages that Flower's SuperLink gives for a message or a reply that it can't deliver.

The first call takes about a second: its imports are large, and few runs need them.
"""

from __future__ import annotations

from flwr.app import Message


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
