"""Noise in finite precision: a sum and its noise are rounded to one grid and added exactly.

Floating-point addition rounds depending on its operands, so the low bits of a noised sum can distinguish sums that
ideal noise would hide (Mironov 2012, "On significance of the least significant bits for differential privacy"). Let
`grid(x)` be the nearest multiple of a step g, and S a sum of sensitivity D. The release is `grid(S) + grid(N)`: both
are whole multiples of g below 2^53 g, which float64 holds and adds exactly. Rounding commutes with a translation by a
multiple of g, so this equals `grid(grid(S) + N)`: post-processing of the ideal mechanism on `grid(S)`. Rounding moves
each of d numbers by at most g / 2, so the sensitivity of `grid(S)` is at most `D + d^(1/p) g` in the norm of order p,
plus the error of float64 sums.

What remains: N has finitely many random bits. Its numbers must be much denser than the grid (they are multiples of
about 2^-53 of their scale), and its tails end with the generator's: at 8.5 standard deviations for the operating
system's normals, at 36 scales for Laplace noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SHARE = 2.0**-20  # of the sensitivity: half for rounding two sums, half for the errors of float64 sums
_DENSEST = 2.0**-40  # least step, of the noise's scale: thousands of the noise's numbers lie between two
_MOST = 2.0**51  # steps; whole numbers up to 2^53 are float64s
_PIECE = 1 << 16  # numbers: intermediate results stay in the cache
_SCALING = 2.0**-22  # relative error of a rounded number's scaling (`fedsim.privacy.secagg.Encoding`)
_MANY_STEPS = 1e12  # within the clip norm: the triangle inequality is as good, and no square overflows


class Arithmetic(StrEnum):
    """How noise is added."""

    GRID = "grid"  # exactly, on a grid
    FLOAT32 = "float32"  # by floating-point addition: for simulations that need speed and no guarantee


@dataclass(frozen=True)
class Grid:
    """The multiples of a power of two.

    Attributes:
        step: g, above 0.
    """

    step: float

    @classmethod
    def at_most(cls, step: float) -> Grid:
        """Return the grid with the largest power of two up to `step` as its step.

        Raises:
            ValueError: That power is no float64 of full precision.

        >>> Grid.at_most(0.3).step
        0.25
        """
        if not 2.0**-900 <= step <= 2.0**900:
            raise ValueError(f"grid step = {step}: must be from 2^-900 to 2^900")
        return cls(2.0 ** (math.frexp(step)[1] - 1))

    def add(self, total: NDArray[Any], noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `grid(total) + grid(noise)`, exactly, in the memory of the noise.

        Halves are rounded up in both. Rounding halves to even would favour even multiples wherever the noise makes
        halves likely, and parity would distinguish neighbouring sums.

        Args:
            total: float32 or float64, finite.
            noise: As many numbers, contiguous; within 2^50 steps of zero, as noise of a scale below 2^40 steps is.

        Raises:
            ValueError: A noised sum is more than 2^51 steps from zero: near 2^53 float64 has no exact sums.
        """
        flat_total, flat_noise = total.reshape(-1), noise.reshape(-1)
        room = np.empty(min(flat_noise.size, _PIECE))
        largest = 0.0
        for start in range(0, flat_noise.size, _PIECE):
            noised = flat_noise[start : start + _PIECE]
            rounded = room[: noised.size]
            rounded[...] = flat_total[start : start + _PIECE]
            for values in (rounded, noised):
                values *= 1 / self.step
                values += 0.5
                np.floor(values, out=values)
            noised += rounded
            largest = max(largest, float(noised.max()), -float(noised.min()))
            noised *= self.step
        if not largest < _MOST:
            raise ValueError(
                f"a noised sum of {largest * self.step:.3g} on a grid of {self.step:.3g}: it must be below "
                f"{_MOST * self.step:.3g}, for float64 to add exactly; sums must not be so much larger than the sensitivity"
            )
        return noise


@dataclass(frozen=True)
class ExactSum:
    """How noise is added to a sum of public sensitivity and dimension.

    Attributes:
        sensitivity: Of the rounded sum; the noise is scaled to it.
        grid: Grid that sum and noise are rounded to; None: floating-point addition.
    """

    sensitivity: float
    grid: Grid | None

    @classmethod
    def of(
        cls,
        sensitivity: float,
        noise_multiplier: float,
        dimension: int,
        *,
        order: Literal[1, 2] = 2,
        arithmetic: Arithmetic,
    ) -> ExactSum:
        """Return how noise is added to a sum.

        A grid raises the sensitivity by `SHARE` of itself. Half of that is d^(1/order) steps, for rounding two
        neighbouring sums (more for noise multipliers in the thousands: the grid must stay coarser than the noise is
        dense). The other half covers float64 sums of n clients in a tree with leaves of n / 64 clients: each
        coordinate is off by at most (n / 64 + 7) 2^-53 of its terms' magnitudes, and two sums by 2 n (n / 64 + 7)
        2^-53 of the sensitivity, below 2^-21 up to 300,000 clients.

        Args:
            sensitivity: Of the sum of real numbers, in the norm of this order; above 0, and finite.
            noise_multiplier: Scale of the noise over the sensitivity, above 0, and finite.
            dimension: Coordinates of the sum, 1 or more.
            order: Of the norm: 2 for Gaussian noise, 1 for Laplace's.
            arithmetic: How to add.

        >>> made = ExactSum.of(1.0, 4.0, 10**6, arithmetic=Arithmetic.GRID)
        >>> 0 < made.sensitivity - 1 <= SHARE, 1000 * made.grid.step <= SHARE / 2
        (True, True)
        """
        if arithmetic is not Arithmetic.GRID:
            return cls(sensitivity, None)
        spread = float(dimension) ** (1 / order)
        grid = Grid.at_most(max(sensitivity * SHARE / 2 / spread, _DENSEST * sensitivity * noise_multiplier))
        return cls(sensitivity * (1 + SHARE / 2) + spread * grid.step, grid)

    def add(self, total: NDArray[Any], noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the noised sum, in the memory of the noise; `total` and `ValueError` as in `Grid.add`."""
        if self.grid is not None:
            return self.grid.add(total, noise)
        noise += total
        return noise


def sensitivity_after_rounding(clip: float, dimension: int, step: float) -> float:
    """Return the largest L2 norm of an update clipped to `clip` after each number was stochastically rounded to a grid.

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
    ratio = clip * (1 + _SCALING) / step
    if ratio > _MANY_STEPS:
        return step * ratio + math.sqrt(dimension) * step
    whole = math.floor(ratio * ratio)
    return step * math.sqrt(whole + 2 * min(math.sqrt(dimension * whole), whole) + dimension)
