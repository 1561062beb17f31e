"""Epsilon of Gaussian releases without sampling: they compose to one, with a privacy loss in closed form."""

from __future__ import annotations

import math

from fedsim.privacy.accounting import renyi
from fedsim.privacy.accounting.steps import Epsilon


def epsilon_of_gaussians(noise_multiplier: float, count: int, delta: float) -> Epsilon:
    """Return epsilon of a number of releases, 0 or more; `pld` is exact.

    R releases equal one with noise smaller by sqrt(R) (Balle and Wang 2018, arXiv 1805.06530, theorem 8). The
    classical sqrt(2 ln(1.25 / delta)) / noise multiplier is proven for epsilon up to 1 only, and too low above.

    >>> round(epsilon_of_gaussians(1.0, 1, 1e-5).pld, 6)
    4.377178
    """
    if count == 0:
        return Epsilon(0.0, 0.0)
    if noise_multiplier < renyi.LEAST:
        return Epsilon(math.inf, math.inf)
    from dp_accounting import get_epsilon_gaussian

    return Epsilon(
        float(get_epsilon_gaussian(noise_multiplier / math.sqrt(count), delta)),
        renyi.epsilon(noise_multiplier, 1.0, count, delta),
    )
