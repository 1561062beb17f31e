"""Statistics of the low bits of released numbers, for audits of noise in finite precision (Mironov 2012)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def lowest_bit(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the exponent of each number's lowest set bit; for zero, one below that of any other number.

    >>> lowest_bit(np.array([1.0, 0.75, 6.0])).tolist()
    [0.0, -2.0, 1.0]
    """
    mantissas, exponents = np.frexp(values.astype(np.float64))
    whole = (np.abs(mantissas) * 2.0**53).astype(np.int64)
    trailing = np.log2(np.maximum(whole & -whole, 1))
    return np.where(values == 0, -1100.0, exponents - 53 + trailing)


def residues(values: NDArray[Any], step: float, modulus: int) -> NDArray[np.float64]:
    """Return each number as a multiple of a step, modulo a whole number; 2 gives parity.

    >>> residues(np.array([0.5, 1.25, -0.25]), 0.25, 4).tolist()
    [2.0, 1.0, 3.0]
    """
    return np.mod(np.rint(values.astype(np.float64) / step), modulus)
