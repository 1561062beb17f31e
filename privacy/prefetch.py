"""Draws a round's noise while its clients train."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.randomness import DrawnRandomness, Randomness


class Prefetch:
    """The randomness of each round; after `begin`, another thread draws the round's normals.

    A round without `begin` draws them on demand.

    Args:
        randomness: Returns a round's randomness.
        size: Normals to draw ahead in a round.
    """

    def __init__(self, randomness: Callable[[int], Randomness], size: int) -> None:
        self._randomness = randomness
        self._size = size
        self._thread = ThreadPoolExecutor(1, "noise")
        self._begun: tuple[int, Randomness, Future[NDArray[np.float64]]] | None = None

    def begin(self, round_: int) -> None:
        """Begin to draw a round's normals."""
        randomness = self._randomness(round_)
        self._begun = round_, randomness, self._thread.submit(randomness.normals, self._size)

    def __call__(self, round_: int) -> Randomness:
        """Return a round's randomness, from its beginning."""
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != round_:
            return self._randomness(round_)
        _, randomness, drawn = begun
        return DrawnRandomness(drawn.result(), randomness)
