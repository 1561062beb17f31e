"""Wall time and this process's CPU time.

On a shared machine CPU time is more meaningful; on an idle one, for work in one thread, they agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """A time span.

    Attributes:
        wall: Elapsed seconds.
        cpu: CPU seconds of all threads of the process.

    >>> Seconds(2.0, 1.5) + Seconds(1.0, 0.5) - Seconds(0.5, 0.5)
    Seconds(wall=2.5, cpu=1.5)
    """

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Seconds:
        """Return both clocks; a difference of two is a span."""
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


NONE = Seconds()


def since(begun: Seconds) -> Seconds:
    """Return the span since then."""
    return Seconds.now() - begun


def total(spans: Iterable[Seconds]) -> Seconds:
    """Return the sum of spans."""
    return sum(spans, NONE)
