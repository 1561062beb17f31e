"""Sensitivity of a sum after stochastic rounding, as under secure aggregation."""

from __future__ import annotations

import math

_ARITHMETIC = 2.0**-22  # relative error of a rounded number's scaling (`fedsim.privacy.secagg.Encoding`)

_MANY_STEPS = 1e12  # within the clip norm: the triangle inequality is as good, and no square overflows


def sensitivity_after_rounding(clip: float, dimension: int, step: float) -> float:
    """Return the largest L2 norm of an update clipped to `clip` after each number was rounded to a grid.

    It bounds every outcome of the random rounding: the sensitivity of a sum of rounded updates under zero-out and
    add-or-remove-one. Secure aggregation rounds to multiples of `clip_range * max_weight / B`
    (`fedsim.privacy.secagg.Encoding`), here with weights of `max_weight`.

    Proof. Let a rounded number be +-a step, with a whole. Where a >= 1, the number was above (a - 1) step, for
    rounding moves by less than a step. With b = max(a - 1, 0), sum b^2 <= (clip / step)^2, and as it is whole,
    sum b^2 <= F, that number's floor. Then sum a^2 <= sum (b + 1)^2 = sum b^2 + 2 sum b + d. Of sum b there are two
    bounds: sqrt(d F) (Cauchy-Schwarz), and F, as b <= b^2. The first gives the known clip + sqrt(d) step; the
    second is smaller where there are more numbers than F.

    Args:
        clip: L2 norm of an update before it is rounded, above 0.
        dimension: Its number of coordinates, 1 or more.
        step: Step of the grid, 0 or more; 0: no rounding.

    Raises:
        ValueError: A value is out of its range.

    >>> step = 1 / (2**15 - 1)  # 16 bits for numbers from -1 to 1
    >>> round(sensitivity_after_rounding(1.0, 10**6, step), 4)
    1.0305
    >>> round(sensitivity_after_rounding(1.0, 10**6, 1 / (2**7 - 1)), 4)
    8.0623
    """
    if not 0 < clip < math.inf:
        raise ValueError(f"clip norm = {clip}: must be above 0, and finite")
    if dimension < 1:
        raise ValueError(f"dimension = {dimension}: must be 1 or more")
    if not 0 <= step < math.inf:
        raise ValueError(f"step = {step}: must be 0 or more, and finite")
    if step == 0:
        return clip
    ratio = clip * (1 + _ARITHMETIC) / step
    if ratio > _MANY_STEPS:
        return step * ratio + math.sqrt(dimension) * step
    whole = math.floor(ratio * ratio)
    return step * math.sqrt(whole + 2 * min(math.sqrt(dimension * whole), whole) + dimension)
