"""Flower's Grid of a server process, with long polls, whole messages, and an end to them with their round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.deployment.content_codec import decode_content, encode_content
from fedsim.deployment.errors import reason_of
from fedsim.deployment.wire import HOLD, MANY
from fedsim.errors import RunFailed
from fedsim.flower.runtime import RuntimeApi
from fedsim.flower.wire_message import WireMessage
from fedsim.server.grids.around import GridAround

LONGEST = 10.0  # seconds
PAUSE = 0.05  # seconds between two looks at a server that holds nothing
BRIEFLY = 1.0  # seconds, where whoever pulls looks at the clock himself
HEAD = 1024  # bytes that a message has at most beside its objects

T = TypeVar("T")


class DeployedGrid(GridAround):
    """A Grid whose clients are processes, which keep their states themselves.

    Args:
        grid: The Grid that Flower has given to this ServerApp.
        ttl: Seconds that a message lives: a client that comes back later doesn't get it any more.
    """

    def __init__(self, grid: Grid, ttl: float) -> None:
        super().__init__(grid)
        self._runtime = RuntimeApi(grid)
        self._ttl = ttl

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages."""
        contents: dict[int, RecordDict] = {}  # one for all that share it
        outgoing = []
        for message in messages:
            metadata, content = message.metadata, message.content
            if id(content) not in contents:
                contents[id(content)] = encode_content(content)
            outgoing.append(
                Message(
                    contents[id(content)],
                    metadata.dst_node_id,
                    metadata.message_type,
                    ttl=min(metadata.ttl, self._ttl),
                    group_id=metadata.group_id,
                )
            )
        batches = _batches(WireMessage.encode(outgoing))
        return [id_ for batch in batches for id_ in _explained(partial(self._runtime.send, batch))]

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

    def _collect(self, message_ids: Iterable[str], hold: float) -> list[Message]:
        """Return the replies that are there, for which the server may wait some seconds."""
        collect = partial(self._runtime.collect, message_ids, {HOLD: f"{hold:.3f}"})
        return [_opened(reply) for reply in _explained(collect)]

    # --- what fedsim's engines keep, and here the clients' own state directories ----------------------------

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Return nothing: each client has kept its state before it answered."""
        return {}

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Restore nothing."""


def _explained(request: Callable[[], T]) -> T:
    """Return what a request returns; raises `RunFailed` where the server finds it too large."""
    try:
        return request()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            said = reason_of(error.response)
            raise RunFailed(
                f"a message to a client is too large: {said}; --max-message is the limit"
            ) from None
        raise


def _batches(messages: Iterable[WireMessage]) -> Iterator[list[WireMessage]]:
    """Yield messages in as few requests as they fit into; what messages share is sent once a request."""
    batch: list[WireMessage] = []
    seen: set[str] = set()
    size = 0
    for message in messages:
        more = HEAD + sum(len(content) for id_, content in message.contents.items() if id_ not in seen)
        if batch and size + more > MANY:
            yield batch
            batch, seen, size = [], set(), 0
            more = HEAD + sum(map(len, message.contents.values()))
        batch.append(message)
        seen |= message.contents.keys()
        size += more
    if batch:
        yield batch


def _opened(encoded: WireMessage) -> Message:
    """Return a reply with its content decoded; an error message where the content is not one encoded record."""
    try:
        reply = encoded.decode()
        if reply.has_content():
            reply.content = decode_content(reply.content)
    except ValueError as error:
        return encoded.error(str(error))
    return reply
