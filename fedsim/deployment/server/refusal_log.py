"""The log of refusals, in which no caller can drown the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("fedsim.server")

MOST = 100  # lines about one caller
WINDOW = 60.0  # seconds


class RefusalLog:
    """Logs refusals: of one caller at most `MOST` in a `WINDOW`, and that there are more once.

    `now` is a monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since = float("-inf")
        self._counts: dict[str, int] = {}  # of the callers of this window

    def is_over(self, caller: str) -> bool:
        """Return whether a caller was refused more than `MOST` times in this window."""
        return self._now() - self._since < WINDOW and self._counts.get(caller, 0) > MOST

    def refused(self, caller: str, who: str, why: str) -> None:
        """Log that a caller, a client or an address without its port, was refused; `who` and `why` are the line's."""
        now = self._now()
        if now - self._since >= WINDOW:
            self._since = now
            self._counts.clear()
        count = self._counts[caller] = self._counts.get(caller, 0) + 1
        if count <= MOST:
            log.warning("refused %s: %s", who, why)
        elif count == MOST + 1:
            log.warning("refused %s more than %d times within a minute; the rest is not logged", caller, MOST)
