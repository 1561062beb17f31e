"""Converts named arrays to one vector, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray


def dimension_of(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return the total number of elements of arrays with these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def concatenated(
    arrays: Mapping[str, NDArray[np.float64]], shapes: Mapping[str, tuple[int, ...]]
) -> NDArray[np.float64]:
    """Return arrays, by name, as one vector `(dimension,)`, in the order of `shapes`."""
    return np.concatenate([arrays[name].reshape(-1) for name in shapes]).astype(np.float64)


def split_like(vector: NDArray[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return a vector `(dimension,)` as views of the given shapes, by name."""
    pieces = np.split(vector, list(accumulate(map(math.prod, shapes.values()))))  # the last one: what is left
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=False)}
