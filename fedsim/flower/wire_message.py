"""A Flower message and its content as one body of a request.

Flower sends a message's head by one request and each object that it consists of by another, named by its SHA-256. Here
head and objects travel together: a list of byte strings, of which the first is Flower's own request or answer for heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import BytesList
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.message import Message as Protobuf

CHECKED = ("run_id", "src_node_id", "dst_node_id", "reply_to_message_id", "message_type")  # of metadata

T = TypeVar("T", bound=Protobuf)


@dataclass(frozen=True)
class WireMessage:
    """A message in parts, as it is sent."""

    head: ProtoMessage  # the message without its content
    tree: ObjectTree  # the ids (SHA-256, hex) of the objects that it consists of
    contents: dict[str, bytes]  # objects by their ids: all of `tree`, and maybe others

    @classmethod
    def encode(cls, messages: Iterable[Message]) -> list[Self]:
        """Return the parts of messages, and set the messages' ids; an object that several share is encoded once."""
        encoded: dict[str, bytes] = {}
        wire_messages = []
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                parts = get_all_nested_objects(message)
                encoded |= {id_: part.deflate() for id_, part in parts.items() if id_ not in encoded}
                head = message_to_proto(remove_content_from_message(message))
                wire_messages.append(
                    cls(head, get_object_tree(message), {id_: encoded[id_] for id_ in parts})
                )
        return wire_messages

    def decode(self) -> Message:
        """Return the message; raises `ValueError` if an object is missing or damaged, or its head is not the message's.

        A server has checked the head's metadata alone.
        """
        try:
            message = inflate_object_from_contents(
                self.tree.object_id, self.contents, keep_object_contents=True
            )
        except Exception as error:  # bytes that are no message raise exceptions of many classes
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if not isinstance(message, Message):
            raise ValueError(f"is no message, but {type(message).__name__}")
        sent, head = message.metadata, self.metadata
        if any(getattr(sent, name) != getattr(head, name) for name in CHECKED):
            raise ValueError("its head is that of another message")
        message.metadata.__dict__["_message_id"] = self.id  # a message can't hold its own hash
        return message

    def error(self, reason: str) -> Message:
        """Return an error message in place of this one, of which the content can't be used."""
        return make_message(self.metadata, error=Error(ErrorCode.UNKNOWN, reason))

    @property
    def id(self) -> str:
        """The message's id."""
        return str(self.tree.object_id)

    @property
    def metadata(self) -> Metadata:
        """The message's metadata, as the head has it."""
        return metadata_from_proto(self.head.metadata)


def messages_in(kind: type[T], packed: BytesList) -> list[WireMessage]:
    """Return the messages in an answer for heads; raises `ValueError` as `unpack`."""
    answer, contents = unpack(kind, packed)
    heads = zip(answer.messages_list, answer.message_object_trees, strict=True)
    return [WireMessage(head, tree, contents) for head, tree in heads]


def pack(head: Protobuf, contents: Iterable[bytes] = ()) -> BytesList:
    """Return a request or an answer for heads, and objects, as one protobuf message."""
    return BytesList(vals=[head.SerializeToString(), *contents])


def unpack(kind: type[T], packed: BytesList) -> tuple[T, dict[str, bytes]]:
    """Return the request or answer for heads (an empty one if nothing is there), and the objects by their ids.

    Raises:
        ValueError: The first byte string is no protobuf message of this kind.
    """
    if not packed.vals:
        return kind(), {}
    head, *contents = packed.vals
    try:
        return kind.FromString(head), {get_object_id(content): content for content in contents}
    except DecodeError:
        raise ValueError(f"is no {kind.DESCRIPTOR.name}") from None
