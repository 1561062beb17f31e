"""Calibration: the smallest noise for an epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable

from fedsim.privacy.accounting.steps import Epsilon
from fedsim.privacy.ranges import check_positive

LEAST, MOST = 0.01, 1e6  # noise multipliers that are tried
PRECISION = 1.001  # at most this factor above the smallest that would do
NUDGE = 1.0004  # guesses at this factor left and right of the true value are within `PRECISION` of each other
GUESSES = 12  # secant steps before bisection


def smallest_noise(epsilon_at: Callable[[float], Epsilon], target: float) -> float:
    """Return the smallest noise multiplier (up to 0.1 %) that keeps the better bound at or below a target.

    The result was itself evaluated: `epsilon_at(result).best <= target`.

    Args:
        epsilon_at: Epsilon of a noise multiplier; it falls as noise grows.
        target: Above 0; `ValueError` is raised if it needs a noise multiplier above a million.

    >>> from fedsim.privacy.accounting import LocalSteps, known_cohort
    >>> smallest_noise(lambda z: known_cohort(LocalSteps(noise_multiplier=z, rate=1, steps=1), 1, 1e-5), 1.0)
    3.7323
    """
    check_positive("epsilon", target)

    def excess(noise: float) -> float:
        epsilon = epsilon_at(noise).best
        return math.log(epsilon / target) if epsilon > 0 else -math.inf

    low, high = _bracket(excess, target)
    guesses = 0
    while high[0] / low[0] > PRECISION:
        guesses += 1
        noise = _rounded_up(_guess(low, high, guesses > GUESSES))
        if not low[0] < noise < high[0]:
            break  # five digits are not enough to come closer
        here = (noise, excess(noise))
        low, high = (here, high) if here[1] > 0 else (low, here)
    return high[0]


Point = tuple[float, float]  # a noise multiplier, and the log of its epsilon over the target


def _bracket(excess: Callable[[float], float], target: float) -> tuple[Point, Point]:
    """Return a noise multiplier that is too low and one that is large enough."""
    noise = 1.0
    low, high = (0.0, math.inf), (math.inf, -math.inf)
    while low[0] == 0 or math.isinf(high[0]):
        here = (noise, excess(noise))
        if here[1] > 0:
            if noise >= MOST:
                raise ValueError(
                    f"epsilon = {target}: no noise multiplier up to {MOST:g} reaches it; fewer steps, a lower rate "
                    "or a larger delta would"
                )
            low = here
        else:
            high = here
            if noise <= LEAST:
                return high, high
        # Epsilon goes with a power of the noise between -1 and -2.
        stride = 1.1 * math.exp(min(abs(here[1]), 3.0) * 0.8)
        noise = _rounded_up(min(max(noise * stride if here[1] > 0 else noise / stride, LEAST), MOST))
    return low, high


def _guess(low: Point, high: Point, bisect: bool) -> float:
    """Return a noise between two points: near where the log-log line through them meets the target.

    It lies on the side of the farther point, which then moves closer.
    """
    left, right = math.log(low[0]), math.log(high[0])
    if bisect or math.isinf(low[1]) or math.isinf(high[1]):
        return math.exp((left + right) / 2)
    meets = left + (right - left) * low[1] / (low[1] - high[1])
    return math.exp(meets) * (NUDGE if meets - left < right - meets else 1 / NUDGE)


def _rounded_up(noise: float) -> float:
    """Round up to five significant digits."""
    unit = 10.0 ** (math.floor(math.log10(noise)) - 4)
    return float(f"{math.ceil(noise / unit - 1e-9) * unit:.5g}")
