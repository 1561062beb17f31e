"""Flower's Grid of a server process, with long polls and messages that end with their round."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.superlink.grid import HttpGrid

from server.grid_around import GridAround

HOLD = "Fedsim-Hold"  # asks the server to keep a request open, for so many seconds, until there is something
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

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages."""
        listed = list(messages)
        for message in listed:
            message.metadata.ttl = min(message.metadata.ttl, self._ttl)
        return self._grid.push_messages(listed)

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
        return self._grid.pull_messages(list(message_ids))

    # --- what fedsim's engines keep, and here the clients' own state directories ----------------------------

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Return nothing: each client has kept its state before it answered."""
        return {}

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Restore nothing."""
