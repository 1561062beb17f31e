"""Timing of rounds."""

from __future__ import annotations

import time


class Clock:
    """Notes the beginning of the first round and the end of each.

    Attributes:
        began: When the first round began, in seconds of `time.time`.
        seconds: Duration of each round, from the end of the one before.
    """

    def __init__(self) -> None:
        self.began = 0.0
        self.seconds: list[float] = []
        self._last = 0.0

    def start(self) -> None:
        """Note that the first round begins."""
        self.began, self._last = time.time(), time.perf_counter()

    def lap(self) -> None:
        """Note that a round ends, and the next one begins."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now
