"""Which processes play the clients right now: one a key, so many at a time, joining so often."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fedsim.deployment.errors import HttpDenied

HOLDS = 15.0  # seconds that a process has its key for itself after it was last heard of
PRESENT = 60.0  # seconds after which a client that was not heard of counts as gone
MINUTE = 60.0


@dataclass
class _Holder:
    instance: str
    heard: float


class Presence:
    """Keeps a second process with the same key out, and joins within limits.

    Args:
        max_nodes: Clients present at a time; None: any number.
        joins_per_minute: None: any number.
        now: Seconds, of a clock that never goes back.
    """

    def __init__(
        self,
        max_nodes: int | None = None,
        joins_per_minute: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_nodes = max_nodes
        self._joins_per_minute = joins_per_minute
        self._now = now
        self._holders: dict[bytes, _Holder] = {}
        self._joins: deque[float] = deque()

    def check(self, key: bytes, instance: str) -> None:
        """Note a call of a process; raises `HttpDenied` (409) while another has the key."""
        now, holder = self._now(), self._holders.get(key)
        if holder is None:
            return
        if holder.instance == instance:
            holder.heard = now
        elif now - holder.heard < HOLDS:
            raise HttpDenied(
                409,
                f"another process has this client's key and was heard of {now - holder.heard:.0f} s ago; "
                f"one at a time, {HOLDS:.0f} s apart",
            )

    def check_join(self, key: bytes) -> None:
        """Note that a client joins; raises `HttpDenied`: 429 for too often, 403 for too many."""
        now = self._now()
        while self._joins and now - self._joins[0] >= MINUTE:
            self._joins.popleft()
        if self._joins_per_minute is not None and len(self._joins) >= self._joins_per_minute:
            raise HttpDenied(
                429, f"clients have joined {len(self._joins)} times within a minute, the most allowed"
            )
        others = sum(k != key and now - holder.heard < PRESENT for k, holder in self._holders.items())
        if self._max_nodes is not None and others >= self._max_nodes:
            raise HttpDenied(403, f"{others} clients have joined, the most allowed")
        self._joins.append(now)

    def served(self, key: bytes, instance: str) -> None:
        """Note that a call of a process was served: it has the key."""
        self._holders[key] = _Holder(instance, self._now())

    def left(self, key: bytes) -> None:
        """Note that a client has left: its key is free."""
        self._holders.pop(key, None)
