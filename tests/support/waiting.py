"""Waiting with a deadline, and acting a little later."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

LONGEST = 120.0  # seconds that a test waits for what should come soon
T = TypeVar("T")


def wait_for(
    what: Callable[[], T | None],
    longest: float = LONGEST,
    pause: float = 0.05,
    said: Callable[[], object] = lambda: "nothing",
) -> T:
    """Return the first true answer.

    Args:
        what: Asked again and again.
        longest: Seconds after which the test fails.
        pause: Seconds between two questions.
        said: What the failure shows, such as a log.
    """
    end = time.monotonic() + longest
    while not (found := what()):
        assert time.monotonic() < end, f"waited {longest} s in vain; what there is: {said()}"
        time.sleep(pause)
    return found


def later(action: Callable[[], object], seconds: float = 0.1) -> threading.Timer:
    """Do something in another thread, soon."""
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer
