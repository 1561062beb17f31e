"""Seeded splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def held_out_indices(
    count: int, share: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split `range(count)` at random into kept and held-out indices, each in ascending order.

    At least one index goes to each side, so `count` must be at least 2.
    """
    size = min(max(round(share * count), 1), count - 1)
    order = generator.permutation(count)
    return np.sort(order[size:]), np.sort(order[:size])
