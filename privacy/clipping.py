"""Clipping of an update jointly over all its tensors, so that no client moves a sum by more than the clip norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_FLOATS = (np.float16, np.float32, np.float64)
_UNIT = 2.0**-53  # half of a float64's precision: an operation's relative error
_LEAST_FACTOR = 1e-30  # of full precision in float32, and so in products with its numbers where they count
_PIECE = 1 << 14  # numbers: intermediate results stay in the cache
_ROW = 1 << 8  # squares summed in float32 at a time

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Clipped:
    """A client's contribution to a sum. All of it is as secret as the update.

    Attributes:
        arrays: By name, in the dtypes and shapes of the update; the update's own arrays if they were not scaled.
        norm_before: Norm of the update; infinite or NaN if it is `invalid`.
        clipped: Whether it was scaled down.
        invalid: Whether it had a NaN or an infinity; `arrays` are then zero.
    """

    arrays: dict[str, NDArray[Any]]
    norm_before: float
    clipped: bool
    invalid: bool


def clip_jointly(update: Arrays, norm: float, *, order: Literal[1, 2] = 2, in_place: bool = False) -> Clipped:
    """Scale an update down to a norm over all its arrays together.

    Unit: a client. The norm of the result never exceeds `norm`, not even after rounding to the dtypes: rounding to
    precision eps moves x by at most eps/2 |x|, or by half of the smallest number tiny, and may also affect the
    factor. So the result's norm is at most (1 + eps/2) times the target, plus d^(1/order) 2 tiny for d numbers, and a
    float64 sum of d terms is wrong by at most d 2^-53 of itself. The target is lowered by that much. So a client that
    is present, zeroed or missing changes a sum by at most `norm`. The L2 norm of float32 arrays is a float64 sum of
    float32 sums of 256 squares: this takes a quarter of the time and lowers a clipped norm by 8 millionths.

    | update | result |
    | --- | --- |
    | zero, or without a number | as it is |
    | norm below `norm` | as it is |
    | huge, its norm overflowing even | scaled to `norm` |
    | NaN or infinity anywhere | zero everywhere, `invalid` |

    Args:
        update: float16, float32 or float64 arrays of any shape, by name.
        norm: Above 0 and finite.
        order: Of the norm: 2 for Gaussian noise, 1 for Laplace noise.
        in_place: Whether the result may reuse the memory of the update.

    Raises:
        ValueError: `norm` is out of its range, or an array has another dtype (integer counters, as in batch
            normalisation, must be left out).

    >>> clipped = clip_jointly({"weight": np.array([3.0, 0.0]), "bias": np.array([4.0])}, 2.5)
    >>> clipped.norm_before, {name: array.round(6).tolist() for name, array in clipped.arrays.items()}
    (5.0, {'weight': [1.5, 0.0], 'bias': [2.0]})
    """
    if not 0 < norm < math.inf:
        raise ValueError(f"clip norm = {norm}: must be above 0, and finite")
    for name, array in update.items():
        if array.dtype not in _FLOATS:
            raise ValueError(
                f"update[{name!r}]: dtype {array.dtype} can't be clipped; allowed: float16, float32, float64"
            )
    scale, scaled_norm, error = _norm(update, norm, order)
    before = scale * scaled_norm
    if not math.isfinite(scaled_norm):
        zeros = {name: np.zeros_like(array) for name, array in update.items()}
        return Clipped(zeros, before, clipped=False, invalid=True)
    if scaled_norm * (1 + error) <= norm / scale:
        return Clipped(dict(update), before, clipped=False, invalid=False)
    factor = _aim(update, norm, order) / (scaled_norm * (1 + error))
    arrays = {
        name: _scaled(array, scale, factor, array if in_place else np.empty_like(array))
        for name, array in update.items()
    }
    return Clipped(arrays, before, clipped=True, invalid=False)


def _norm(update: Arrays, limit: float, order: int) -> tuple[float, float, float]:
    """Return a scale (a power of two), the update's norm over the scale, and its relative error.

    The scale is 1 unless powers would overflow or underflow, or the limit is tiny; scale times norm may overflow.
    Near the limit, the norm to clip to, the norm is not taken in float32, so a clipped update stays as it is. Sums
    follow the order of the arrays, whatever the number of threads.
    """
    error = (_numbers(update) + 8) * _UNIT
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if order == 2 and all(array.dtype == np.float32 for array in update.values()):
            total = _sum_of_float32_squares(update)
            root = math.sqrt(total)
            if 1e-10 < root < 1e15 and limit > 1e-290 * root and not 0.999 < root / limit < 1.001:
                return 1.0, root, error + (min(_ROW, _numbers(update)) + 2) * 2.0**-24 / 2
        total = _sum_of_powers(update, 1.0, order)
        # Otherwise powers would underflow or overflow, or the factor would be subnormal.
        if 1e-200 < total < 1e300 and limit > 1e-290 * total ** (1 / order):
            return 1.0, total ** (1 / order), error
        largest = float(np.max([np.abs(array).max() for array in update.values() if array.size], initial=0.0))
        if largest == 0 or not math.isfinite(largest):
            return 1.0, largest, error
        scale = 2.0 ** (math.frexp(largest)[1] - 1)
        return scale, _sum_of_powers(update, scale, order) ** (1 / order), error


def _numbers(update: Arrays) -> int:
    return sum(array.size for array in update.values())


def _sum_of_float32_squares(update: Arrays) -> float:
    total = 0.0
    for array in update.values():
        flat = array.reshape(-1)
        whole = flat.size // _ROW * _ROW
        for rows in (flat[:whole].reshape(-1, _ROW), flat[None, whole:]):
            total += float((rows[:, None] @ rows[:, :, None]).sum(dtype=np.float64))
    return total


def _sum_of_powers(update: Arrays, scale: float, order: int) -> float:
    return sum(
        float((np.abs(piece) if order == 1 else piece * piece).sum())
        for array in update.values()
        for piece in _pieces(array, scale)
    )


def _pieces(array: NDArray[Any], scale: float) -> Iterator[NDArray[np.float64]]:
    """Yield an array's numbers over a scale, as float64."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64, copy=False)
        yield piece if scale == 1 else piece / scale


def _aim(update: Arrays, norm: float, order: int) -> float:
    """Return the norm to scale to, so that the rounded result's is at most `norm`; 0 if there is none."""
    numbers = _numbers(update)
    infos = [np.finfo(array.dtype) for array in update.values() if array.size]
    precision = max(float(info.eps) for info in infos) + 4 * _UNIT
    tiny = max(float(info.smallest_subnormal) for info in infos)
    room = norm / (1 + 2 * (numbers + 8) * _UNIT) - 2 * tiny * float(numbers ** (1 / order))
    return max(room, 0.0) / (1 + precision)


def _scaled(array: NDArray[Any], scale: float, factor: float, out: NDArray[Any]) -> NDArray[Any]:
    """Put array / scale * factor into `out`, in the array's dtype; the factor may be rounded towards 0, to a float32."""
    with np.errstate(under="ignore"):
        if array.dtype == np.float32 and scale == 1 and factor > _LEAST_FACTOR:
            rounded = np.float32(factor)
            if rounded > factor:
                rounded = np.nextafter(rounded, np.float32(0))
            np.multiply(array, rounded, out=out)
        else:
            scaled = array if scale == 1 else array.astype(np.float64) / scale
            np.multiply(scaled, factor, out=out, dtype=np.float64, casting="same_kind")
    return out
