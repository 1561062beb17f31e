"""Unbiased stochastic quantisation: QSGD (Alistarh et al. 2017)."""

from __future__ import annotations

import math

import numpy as np

from fedsim.transforms.protocol import Values


class Quantise:
    """Rounds each coordinate to a multiple of `norm / levels`, at random; implements `fedsim.transforms.Transform`.

    The norm is the update's L2 norm. Rounding is unbiased. Over d coordinates the expected squared L2 error is at most
    `min(d / levels^2, sqrt(d) / levels) * norm^2` (Alistarh et al. 2017, Lemma 3.1): with `levels` below
    `sqrt(d)` the error may be larger than the update.

    Args:
        levels: Magnitudes above zero, at least 1; with signs and zero a coordinate has `2 * levels + 1` values.
    """

    def __init__(self, levels: int = 256) -> None:
        self._levels = levels

    def apply(self, update: Values, draws: np.random.Generator) -> Values:
        """Return the rounded update. As `Transform` says."""
        exact = update.astype(np.float64)
        norm = math.sqrt(np.square(exact).sum())  # not by BLAS, whose bits depend on its threads
        if norm == 0:
            return np.zeros_like(update)
        scaled = np.abs(exact) / norm * self._levels
        below = np.floor(scaled)
        level = below + (draws.random(update.size) < scaled - below)
        rounded: Values = np.copysign(level, exact) * (norm / self._levels)
        return rounded.astype(update.dtype)
