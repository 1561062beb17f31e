"""Ends a run on SIGINT (Ctrl-C), SIGTERM (a scheduler, a container) or SIGHUP (the terminal is gone).

The first signal ends the run after the current round has been written; a second one ends it at once, as the first
does before the rounds begin. Some senders (such as `timeout`) signal a process and then its whole group: signals
within `TOGETHER` count as one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from fedsim.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER = 0.5  # seconds


def ending_signals() -> Sequence[signal.Signals]:
    """Return the signals that end a process which runs until it is told to end; under `nohup` SIGHUP is none."""
    return [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]


class Interruption:
    """Counts the signals of one run."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.signals = 0
        self.is_watched = False
        self._tell = tell
        self._last = float("-inf")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; raises `KeyboardInterrupt` if it is the second, or if the run does not check for them yet."""
        before, self._last = self._last, time.monotonic()
        if self._last - before < TOGETHER:
            return
        self.signals += 1
        if self.signals > 1 or not self.is_watched:
            raise KeyboardInterrupt
        self._tell()


_current: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


def asked() -> bool:
    """Return whether the run should end; once called, it must be called in every round."""
    current = _current.get()
    if current is None:
        return False
    current.is_watched = True
    return current.signals > 0


@contextmanager
def interruptible(tell: Callable[[], None]) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP for the run inside the block, if this is the main thread.

    A signal that the process ignores (as under `nohup`) stays ignored. Handlers are restored afterwards.

    Args:
        tell: Called at the first signal, if a round must end first.

    Raises:
        Interrupted: A signal came, even if the run has just ended: a script of several runs must stop too.
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
