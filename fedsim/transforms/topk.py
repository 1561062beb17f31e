"""Top-k sparsification: the largest coordinates of an update are sent (Aji and Heafield 2017)."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from fedsim.transforms.protocol import Values


class TopK:
    """Keeps the coordinates of largest magnitude, and sets the others to zero; implements `fedsim.transforms.Transform`.

    There is no error feedback: clients keep no residual between rounds.

    Args:
        share: Fraction of the coordinates to keep, rounded up; above 0, at most 1. Of equal magnitudes the first are kept.
    """

    def __init__(self, share: float = 0.1) -> None:
        self._share = Fraction(str(share))  # as it is written: 0.07 of 100 are 7

    def apply(self, update: Values, draws: np.random.Generator) -> Values:
        """Return the update with only its largest coordinates. As `Transform` says."""
        kept = math.ceil(self._share * update.size)
        magnitudes = np.abs(update)
        least = np.partition(magnitudes, update.size - kept)[update.size - kept]
        equal = np.flatnonzero(magnitudes == least)
        dropped = magnitudes < least
        dropped[equal[kept - np.count_nonzero(magnitudes > least) :]] = True
        update[dropped] = 0
        return update
