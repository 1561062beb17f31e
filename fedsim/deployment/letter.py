"""A Flower message and its content as one body of a request.

Flower sends a message's head by one request and each object that it consists of by another, named by its hash. Here
head and objects travel together: a list of byte strings, the first of which is the request or answer that Flower has for
heads alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
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

T = TypeVar("T", bound=Protobuf)


@dataclass(frozen=True)
class Letter:
    """A message in parts.

    Attributes:
        head: The message without its content.
        tree: The hashes of the objects that it consists of.
        contents: Objects by their hashes; those of `tree`, and others maybe.
    """

    head: ProtoMessage
    tree: ObjectTree
    contents: dict[str, bytes]

    @classmethod
    def of(cls, messages: Iterable[Message]) -> list[Self]:
        """Return the parts of messages, whose ids are their hashes then; what they share is made once."""
        made: dict[str, bytes] = {}
        letters = []
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                parts = get_all_nested_objects(message)
                made |= {id_: part.deflate() for id_, part in parts.items() if id_ not in made}
                head = message_to_proto(remove_content_from_message(message))
                letters.append(cls(head, get_object_tree(message), {id_: made[id_] for id_ in parts}))
        return letters

    def message(self) -> Message:
        """Return the message.

        Raises:
            ValueError: An object is missing, or isn't what it should be.
        """
        try:
            message = inflate_object_from_contents(
                self.tree.object_id, self.contents, keep_object_contents=True
            )
        except Exception as error:  # whatever bytes that are no message raise
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if not isinstance(message, Message):
            raise ValueError(f"is no message, but {type(message).__name__}")
        message.metadata.__dict__["_message_id"] = self.tree.object_id  # a message can't hold its own hash
        return message


def pack(head: Protobuf, contents: Iterable[bytes] = ()) -> BytesList:
    """Return a request or an answer with objects."""
    return BytesList(vals=[head.SerializeToString(), *contents])


def unpack(kind: type[T], packed: BytesList) -> tuple[T, dict[str, bytes]]:
    """Return a request or an answer, an empty one for nothing at all, and the objects by their hashes.

    Raises:
        ValueError: It is none of its kind.
    """
    if not packed.vals:
        return kind(), {}
    head, *contents = packed.vals
    try:
        return kind.FromString(head), {get_object_id(content): content for content in contents}
    except DecodeError:
        raise ValueError(f"is no {kind.DESCRIPTOR.name}") from None
