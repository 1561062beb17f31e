"""Flower's Grid of a server process, with long polls and messages that end with their round."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial

from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.superlink.grid import HttpGrid, http_grid

from fedsim.deployment.parcel import unwrap, wrap
from fedsim.deployment.wire import HOLD
from server.grid_around import GridAround

LONGEST = 10.0  # seconds
PAUSE = 0.05  # seconds between two looks at a server that holds nothing
BRIEFLY = 1.0  # seconds, where whoever pulls looks at the clock himself


class DeployedGrid(GridAround):
    """A Grid whose clients are processes, which keep their states themselves.

    Args:
        grid: Flower's.
        ttl: Seconds that a message lives: a client that comes back later doesn't get it any more.
    """

    def __init__(self, grid: Grid, ttl: float) -> None:
        super().__init__(grid)
        self._ttl = ttl
        # A reply is announced before its content is there: Flower would look again after a second, and then longer.
        look = partial(pull_objects, initial_backoff=0.01, backoff_cap=0.2)
        http_grid.pull_objects = look  # type: ignore[attr-defined]

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
        return self._grid.push_messages(parcels)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies; where there are none yet, that takes a moment."""
        return self._pull(message_ids, BRIEFLY)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that come within `timeout` seconds, each as soon as it is there."""
        waiting = set(self.push_messages(messages))
        end = float("inf") if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (left := end - time.monotonic()) > 0:
            came = list(self._pull(waiting, min(left, LONGEST)))
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            replies += came
            if not came:
                time.sleep(PAUSE)
        return replies

    def _pull(self, message_ids: Iterable[str], hold: float) -> Iterable[Message]:
        if isinstance(self._grid, HttpGrid):
            self._grid._runtime_client._client.headers[HOLD] = f"{hold:.3f}"
        return [_opened(reply) for reply in self._grid.pull_messages(list(message_ids))]

    # --- what fedsim's engines keep, and here the clients' own state directories ----------------------------

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Return nothing: each client has kept its state before it answered."""
        return {}

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Restore nothing."""


def _opened(reply: Message) -> Message:
    """Return a reply with what its client sent in it; of a client that sent anything but a parcel, an error."""
    if reply.has_error():
        return reply
    try:
        reply.content = unwrap(reply.content)
    except ValueError as error:
        return make_message(reply.metadata, error=Error(ErrorCode.UNKNOWN, str(error)))
    return reply
