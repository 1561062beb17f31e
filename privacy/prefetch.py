"""Noise that is drawn while the clients of its round train."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.randomness import DrawnRandomness, Randomness


class Prefetch:
    """The randomness of each round; from `begin` on, another thread draws the round's normals.

    A round that was not begun draws them when it is asked.

    Args:
        randomness: Of a round.
        size: Normals that a round takes at first.
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
        """Return a round's randomness, of which nothing was taken."""
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != round_:
            return self._randomness(round_)
        _, randomness, drawn = begun
        return DrawnRandomness(drawn.result(), randomness)
