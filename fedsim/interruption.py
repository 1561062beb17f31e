"""Ending a run when SIGINT (Ctrl-C) or SIGTERM (a scheduler, a container) says so.

The first signal lets the round in flight come to its end and be written; a second one ends at once. Before the
rounds begin there is nothing to wait for, so there the first one ends at once too. Some senders (`timeout`, for
one) signal a process and then its whole group: what comes together is one signal.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from fedsim.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER = 0.5  # seconds


class Interruption:
    """Counts the signals of one run."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.signals = 0
        self.is_watched = False
        self._tell = tell
        self._last = float("-inf")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; raises `KeyboardInterrupt` if it is the second, or if no one looks for a first one."""
        before, self._last = self._last, time.monotonic()
        if self._last - before < TOGETHER:
            return
        self.signals += 1
        if self.signals > 1 or not self.is_watched:
            raise KeyboardInterrupt
        self._tell()


_current: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


def asked() -> bool:
    """Say whether the run is to end; whoever asks must go on asking, once a round."""
    current = _current.get()
    if current is None:
        return False
    current.is_watched = True
    return current.signals > 0


@contextmanager
def interruptible(tell: Callable[[], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM for the run inside the block, if this is the main thread.

    A signal that the process ignores (as under `nohup`) stays ignored. Handlers are put back afterwards.

    Args:
        tell: Called at the first signal, if a round has to come to its end.

    Raises:
        Interrupted: A signal came. It did not come in vain even if the run was at its end: a script that makes
            run after run must hear of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interruption = Interruption(tell)
    before = {s: handler for s in SIGNALS if (handler := signal.getsignal(s)) not in (None, signal.SIG_IGN)}
    token = _current.set(interruption)
    try:
        for number in before:
            signal.signal(number, interruption.on_signal)
        yield
        if interruption.signals:
            raise Interrupted("interrupted in its last round; the run is completed")
    except KeyboardInterrupt:
        if interruption.signals == 1:
            raise Interrupted("interrupted before the first round") from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _current.reset(token)
