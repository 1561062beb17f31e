"""Which processes use the clients' keys at the moment: one for each key, within limits of number and rate."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fedsim.deployment.errors import HttpDenied

HOLDS = 15.0  # seconds after its last request for which a process keeps its key
PRESENT = 60.0  # seconds after its last request for which a client counts as present
MINUTE = 60.0


@dataclass
class _Holder:
    instance: str
    heard: float


class Presence:
    """Refuses a second process with the same key, too many clients at a time, and too many joins a minute.

    Args:
        max_nodes: Clients present at a time; None: no limit.
        joins_per_minute: None: no limit.
        now: A monotonic clock, in seconds.
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
        """Note a request of a process; raises `HttpDenied` (409) while another process has the key."""
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
        """Note that a client joins; raises `HttpDenied`: 429 for too many joins a minute, 403 for too many clients."""
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
        """Note that a request of a process was served: the process has the key now."""
        self._holders[key] = _Holder(instance, self._now())

    def left(self, key: bytes) -> None:
        """Note that a client has left: its key is free."""
        self._holders.pop(key, None)
