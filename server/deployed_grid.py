"""Flower's Grid in a server process: long polling, complete messages, and expiry with the round."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.deployment.content_codec import decode_content, encode_content
from fedsim.deployment.wire import HOLD, MANY, reason_of
from fedsim.errors import RunFailed
from fedsim.flower.runtime import RuntimeApi
from fedsim.flower.wire_message import WireMessage
from fedsim.server.grids import GridWrapper

LONG_POLL = 10.0  # seconds
SHORT_POLL = 1.0  # seconds, for callers with a timeout of their own
PAUSE = 0.05  # seconds between two polls
OVERHEAD = 1024  # bytes of a message beside its objects, at most


class DeployedGrid(GridWrapper):
    """A Grid of client processes, which keep their own states.

    Args:
        grid: The ServerApp's Grid from Flower.
        ttl: Seconds until a message expires; a client that comes online later doesn't get it.
    """

    def __init__(self, grid: Grid, ttl: float) -> None:
        super().__init__(grid)
        self._runtime = RuntimeApi(grid)
        self._ttl = ttl

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages."""
        contents: dict[int, RecordDict] = {}  # encoded contents, shared between messages
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
        with _explained():
            batches = _batches(WireMessage.encode(outgoing))
            return [id_ for batch in batches for id_ in self._runtime.send(batch)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies; wait a moment if there are none yet."""
        return self._collect(message_ids, SHORT_POLL)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that arrive within `timeout` seconds."""
        waiting = set(self.push_messages(messages))
        end = float("inf") if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (left := end - time.monotonic()) > 0:
            arrived = self._collect(waiting, min(left, LONG_POLL))
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            replies += arrived
            if not arrived:
                time.sleep(PAUSE)
        return replies

    def _collect(self, message_ids: Iterable[str], hold: float) -> list[Message]:
        """Return the available replies; the server may wait `hold` seconds for the first."""
        with _explained():
            replies = self._runtime.collect(message_ids, {HOLD: f"{hold:.3f}"})
        return [_opened(reply) for reply in replies]

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Return no states: each client stores its own before it answers."""
        return {}

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Do nothing."""


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the server's answer to a request that it finds too large into `RunFailed`."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            said = f"a message to a client is too large: {reason_of(error.response)}"
            raise RunFailed(f"{said}; --max-message is the limit") from None
        raise


def _batches(messages: Iterable[WireMessage]) -> Iterator[list[WireMessage]]:
    """Yield batches of messages, as few as possible; shared objects are sent once in each."""
    batch: list[WireMessage] = []
    seen: set[str] = set()
    size = 0
    for message in messages:
        more = OVERHEAD + sum(len(content) for id_, content in message.contents.items() if id_ not in seen)
        if batch and size + more > MANY:
            yield batch
            batch, seen, size = [], set(), 0
            more = OVERHEAD + sum(map(len, message.contents.values()))
        batch.append(message)
        seen |= message.contents.keys()
        size += more
    if batch:
        yield batch


def _opened(encoded: WireMessage) -> Message:
    """Return a reply with decoded content, or an error message if the content is malformed."""
    try:
        reply = encoded.decode()
        if reply.has_content():
            reply.content = decode_content(reply.content)
    except ValueError as error:
        return encoded.error(str(error))
    return reply
