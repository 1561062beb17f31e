"""Ending a process that runs until it is told to end: by SIGTERM, SIGINT or SIGHUP, or with its parent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedsim.interruption import ending_signals

PAUSE = 0.5  # seconds between checks whether the parent still runs


class _Shutdown(BaseException):
    """The process is to end at once."""


@contextmanager
def until_shutdown(parent: int | None) -> Iterator[None]:
    """End the block at a signal or when the parent, a process id, ends; a second signal ends the process at once."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise _Shutdown

    before = {number: signal.signal(number, end) for number in ending_signals()}
    if parent is not None:
        threading.Thread(target=_watch, args=[parent], daemon=True).start()
    try:
        yield
    except _Shutdown:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PAUSE)
    os.kill(os.getpid(), signal.SIGTERM)
