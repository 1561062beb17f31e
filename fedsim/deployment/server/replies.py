"""What replies a server takes: each to a message that its client has, once, and no larger than the run's messages warrant."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from fedsim.deployment.server.asgi import MIB, HttpDenied

# A reply may have so many times the bytes of its run's largest message, and so many more.
TIMES, BESIDE = 8, 16 * MIB
AGAIN = 3  # how often a client may repeat its last reply, of which the server's answer was lost
MOST = 1000  # messages that a client may have at a time; more have the oldest forgotten


@dataclass
class _Client:
    waiting: dict[str, int] = field(
        default_factory=dict
    )  # runs of the messages without a reply, by the messages' ids
    last: tuple[str, int] | None = None  # the last message with a reply, and its run
    again: int = 0  # how often the last reply was repeated


class Replies:
    """The replies that are awaited of each node; for one thread at a time."""

    def __init__(self) -> None:
        self._clients: defaultdict[int, _Client] = defaultdict(_Client)
        self._largest: dict[int, int] = {}  # bytes of each run's largest message

    def await_reply(self, node: int, message: str, run: int, size: int) -> None:
        """Note that a node has been sent a message of a run, with so many bytes."""
        waiting = self._clients[node].waiting
        waiting[message] = run
        if len(waiting) > MOST:
            del waiting[next(iter(waiting))]
        self._largest[run] = max(size, self._largest.get(run, 0))

    def limit(self, node: int | None) -> int:
        """Return how many bytes a reply of a node may have, at most; None: of any node."""
        clients = self._clients.values() if node is None else [self._clients[node]]
        runs = {run for client in clients for run in client.waiting.values()}
        runs |= {client.last[1] for client in clients if client.last is not None}
        return TIMES * max((self._largest[run] for run in runs), default=0) + BESIDE

    def check(self, node: int, message: str) -> None:
        """Raise `HttpDenied` where a node replies to no message that it has, or has repeated its last reply too often."""
        client = self._clients[node]
        if message in client.waiting:
            return
        if client.last is None or client.last[0] != message:
            raise HttpDenied(404, "the reply is to no message that waits for one of this client")
        if client.again >= AGAIN:
            raise HttpDenied(404, f"the reply was repeated {AGAIN} times already")
        client.again += 1

    def replied(self, node: int, message: str) -> None:
        """Note that a node's reply to a message was kept."""
        client = self._clients[node]
        if message in client.waiting:
            client.last, client.again = (message, client.waiting.pop(message)), 0
