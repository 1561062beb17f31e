"""A server that waits for more nodes than a simulation has."""

from __future__ import annotations

import threading
import time

QUESTIONS = 5  # that a server asks in a row, at least, before it is told that it waits in vain
NO_MORE_NODES = (
    "a simulation has all its {} from the beginning, and no more will come (--clients gives their number)"
)
PATIENCE = 3.0  # seconds that it spends on them, at least
EFFORT = 0.01  # seconds of computing for each, at most


class Waiting:
    """Notices that the thread which made this asks for the nodes again and again, and sleeps meanwhile.

    The nodes of a simulation never change. A server that computes between its questions, or sends messages, goes on.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._questions = 0
        self._since = self._busy = 0.0

    def asked(self) -> bool:
        """Note a question; say whether it waits in vain."""
        if threading.get_ident() != self._thread:
            return False
        now, busy = time.monotonic(), time.thread_time()
        if self._questions == 0:
            self._since, self._busy = now, busy
        self._questions += 1
        waited, used = now - self._since, busy - self._busy
        idle = used <= min(EFFORT * self._questions, 0.5 * waited)
        return self._questions >= QUESTIONS and waited >= PATIENCE and idle

    def acted(self) -> None:
        """Note that the server does something else."""
        self._questions = 0
