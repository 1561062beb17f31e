"""Queries of engines in tests, to `tests.support.apps:stateful`, and a fold of its replies."""

from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedsim.runtime import AppSpec
from fedsim.runtime.spec import client_of, node_id

SPEC = AppSpec(5, {}, "tests.support.apps:stateful")


def query(client: int, action: str = "query", content: RecordDict | None = None) -> Message:
    return Message(content or RecordDict(), node_id(client), action)


def copy(message: Message) -> Message:
    """Return a message that is alike, and has not been sent."""
    return query(client_of(message.metadata.dst_node_id), message.metadata.message_type, message.content)


def array(value: float) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"w": Array(np.full(3, value))})})


def told(replies: list[Message], key: str) -> dict[int, int]:
    """Return a number that each client tells, by client."""
    return {client_of(r.metadata.src_node_id): int(r.content["told"][key]) for r in replies}


@dataclass(frozen=True)
class Sum:
    """Adds up the arrays that `tests.support.apps.add` sends, and counts the errors."""

    def add(self, total: tuple[np.ndarray, int] | None, reply: Message) -> tuple[np.ndarray, int]:
        values, errors = (np.zeros(3), 0) if total is None else total
        if reply.has_error():
            return values, errors + 1
        return values + reply.content.array_records["arrays"]["w"].numpy(), errors

    def merge(self, left: tuple[np.ndarray, int], right: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
        values, errors = left
        values += right[0]  # in place, as the fold of the server does it
        return values, errors + right[1]
