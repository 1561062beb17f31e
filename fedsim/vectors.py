"""Converts a model's arrays to one vector, in their order, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedsim.arrays import Values, record_of, values_of
from fedsim.privacy.vectors import split_like


def why_not_float(dtypes: Mapping[str, np.dtype[Any]]) -> str | None:
    """Return why a model's updates can't be clipped, summed or transformed, or None."""
    for name, dtype in dtypes.items():
        if dtype.kind != "f":
            return f"{name} is {dtype}: only floating-point updates can be clipped, summed or transformed"
    return None


def difference(trained: ArrayRecord, received: ArrayRecord) -> Values:
    """Return the trained minus the received arrays, `(dimension,)`, in the widest of their dtypes.

    Raises:
        ValueError: Names, shapes or dtypes differ, or the arrays are not floating-point.
    """
    if trained.keys() != received.keys():
        raise ValueError("training returned other arrays than it received")
    before = {name: values_of(array) for name, array in received.items()}
    if (why := why_not_float({name: old.dtype for name, old in before.items()})) is not None:
        raise ValueError(why)
    dtype = np.result_type(*before.values())
    vector = np.empty(sum(old.size for old in before.values()), dtype)
    start = 0
    for name, old in before.items():
        new = values_of(trained[name])
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise ValueError(f"training returned {name} with another shape or dtype than it received")
        piece = vector[start : start + old.size].reshape(old.shape)
        np.subtract(new, old, out=piece)
        start += old.size
    return vector


def split(vector: NDArray[Any], like: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return a vector, `(dimension,)`, as views with the names and shapes of arrays."""
    return split_like(vector, {name: tuple(array.shape) for name, array in like.items()})


def plus(arrays: ArrayRecord, update: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return arrays plus an update, by name; added in float64, in the arrays' dtypes."""
    result = {}
    for name, array in arrays.items():
        old = values_of(array)
        result[name] = np.asarray(np.add(old, update[name], dtype=np.float64)).astype(old.dtype)
    return record_of(result)


def plus_vector(arrays: ArrayRecord, update: NDArray[np.float64]) -> ArrayRecord:
    """Return arrays plus an update, `(dimension,)`, in the arrays' dtypes."""
    return plus(arrays, split(update, arrays))
