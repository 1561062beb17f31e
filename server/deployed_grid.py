"""Flower's Grid of a server process, with long polls, whole messages, and an end to them with their round."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.recorddict_pb2 import BytesList
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid
from google.protobuf.message import Message as Protobuf  # type: ignore[import-untyped]

from fedsim.deployment.letter import Letter, pack, unpack
from fedsim.deployment.parcel import unwrap, wrap
from fedsim.deployment.refusals import reason_of
from fedsim.deployment.wire import COLLECT, HOLD, MANY, SEND
from fedsim.errors import RunFailed
from fedsim.server.grid_around import GridAround

LONGEST = 10.0  # seconds
PAUSE = 0.05  # seconds between two looks at a server that holds nothing
BRIEFLY = 1.0  # seconds, where whoever pulls looks at the clock himself
HEAD = 1024  # bytes that a message has at most beside its objects

T = TypeVar("T", bound=Protobuf)


class DeployedGrid(GridAround):
    """A Grid whose clients are processes, which keep their states themselves.

    Args:
        grid: Flower's.
        ttl: Seconds that a message lives: a client that comes back later doesn't get it any more.
    """

    _grid: HttpGrid

    def __init__(self, grid: HttpGrid, ttl: float) -> None:
        super().__init__(grid)
        self._ttl = ttl

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages."""
        contents: dict[int, RecordDict] = {}  # one for all that share it
        parcels = []
        for message in messages:
            metadata, content = message.metadata, message.content
            if id(content) not in contents:
                contents[id(content)] = wrap(content)
            parcels.append(
                Message(
                    contents[id(content)],
                    metadata.dst_node_id,
                    metadata.message_type,
                    ttl=min(metadata.ttl, self._ttl),
                    group_id=metadata.group_id,
                )
            )
        return [id_ for letters in _batches(Letter.of(parcels)) for id_ in self._send(letters)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies; where there are none yet, that takes a moment."""
        return self._collect(message_ids, BRIEFLY)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that come within `timeout` seconds, each as soon as it is there."""
        waiting = set(self.push_messages(messages))
        end = float("inf") if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (left := end - time.monotonic()) > 0:
            came = self._collect(waiting, min(left, LONGEST))
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            replies += came
            if not came:
                time.sleep(PAUSE)
        return replies

    def _send(self, letters: Sequence[Letter]) -> list[str]:
        """Send messages by one request; return their ids."""
        request = PushAppMessagesRequest(
            messages_list=[letter.head for letter in letters],
            message_object_trees=[letter.tree for letter in letters],
        )
        contents = {id_: content for letter in letters for id_, content in letter.contents.items()}
        answer = self._call(SEND, pack(request, contents.values()), PushAppMessagesResponse)
        return list(answer.message_ids)

    def _collect(self, message_ids: Iterable[str], hold: float) -> list[Message]:
        """Return the replies that are there, for which the server may wait some seconds."""
        self._client._client.headers[HOLD] = f"{hold:.3f}"
        packed = self._call(COLLECT, PullAppMessagesRequest(message_ids=message_ids), BytesList)
        replies, contents = unpack(PullAppMessagesResponse, packed)
        return [
            _opened(Letter(head, tree, contents))
            for head, tree in zip(replies.messages_list, replies.message_object_trees, strict=True)
        ]

    @property
    def _client(self) -> RuntimeHttpClient:
        return self._grid._runtime_client

    def _call(self, path: str, request: Protobuf, kind: type[T]) -> T:
        try:
            return self._client._unary_unary(path=path, rpc_method=path, request=request, response_type=kind)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
                said = reason_of(error.response)
                raise RunFailed(
                    f"a message to a client is too large: {said}; --max-message is the limit"
                ) from None
            raise

    # --- what fedsim's engines keep, and here the clients' own state directories ----------------------------

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Return nothing: each client has kept its state before it answered."""
        return {}

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Restore nothing."""


def _batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """Yield messages in as few requests as they fit into; what messages share is sent once a request."""
    batch: list[Letter] = []
    seen: set[str] = set()
    size = 0
    for letter in letters:
        more = HEAD + sum(len(content) for id_, content in letter.contents.items() if id_ not in seen)
        if batch and size + more > MANY:
            yield batch
            batch, seen, size = [], set(), 0
            more = HEAD + sum(map(len, letter.contents.values()))
        batch.append(letter)
        seen |= letter.contents.keys()
        size += more
    if batch:
        yield batch


def _opened(letter: Letter) -> Message:
    """Return a reply with what its client sent in it; of a client that sent anything but a parcel, an error."""
    try:
        reply = letter.message()
        if reply.has_content():
            reply.content = unwrap(reply.content)
    except ValueError as error:
        metadata = message_from_proto(letter.head).metadata
        return make_message(metadata, error=Error(ErrorCode.UNKNOWN, str(error)))
    return reply
