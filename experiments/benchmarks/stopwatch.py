"""Seconds by two clocks: what passed, and what this process computed.

On a machine that others use too the second says more of a piece of work; on an idle one, of work in one thread,
they agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """A time span.

    Attributes:
        wall: That passed.
        cpu: That all threads of the process computed.

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
    """Return what has passed since."""
    return Seconds.now() - begun


def total(spans: Iterable[Seconds]) -> Seconds:
    """Return the sum of spans."""
    return sum(spans, NONE)
