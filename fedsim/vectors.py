"""The arrays of a model as one vector, in their order, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedsim.arrays import Values, record_of, values_of
from fedsim.privacy.vectors import split_like


def why_not_float(dtypes: Mapping[str, np.dtype[Any]]) -> str | None:
    """Return why a model's updates can't be clipped, summed or transformed, None if they can."""
    for name, dtype in dtypes.items():
        if dtype.kind != "f":
            return f"{name} is {dtype}: only updates of floating-point numbers are summed or transformed so"
    return None


def difference(trained: ArrayRecord, received: ArrayRecord) -> Values:
    """Return what training has changed, `(dimension,)`, in the arrays' dtype (the widest, where they differ).

    Raises:
        ValueError: The arrays have other names, shapes or dtypes after than before, or are not of
            floating-point numbers.
    """
    if trained.keys() != received.keys():
        raise ValueError("training has returned other arrays than it got")
    before = {name: values_of(array) for name, array in received.items()}
    if (why := why_not_float({name: old.dtype for name, old in before.items()})) is not None:
        raise ValueError(why)
    dtype = np.result_type(*before.values())
    vector = np.empty(sum(old.size for old in before.values()), dtype)
    start = 0
    for name, old in before.items():
        new = values_of(trained[name])
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise ValueError(f"training has returned {name} with another shape or dtype than it got")
        piece = vector[start : start + old.size].reshape(old.shape)
        np.subtract(new, old, out=piece)
        start += old.size
    return vector


def split(vector: NDArray[Any], like: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return a vector, `(dimension,)`, as views in the names and shapes of arrays."""
    return split_like(vector, {name: tuple(array.shape) for name, array in like.items()})


def plus(arrays: ArrayRecord, update: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return arrays with an update, by name, added to them in float64, in their own dtypes."""
    result = {}
    for name, array in arrays.items():
        old = values_of(array)
        result[name] = np.asarray(np.add(old, update[name], dtype=np.float64)).astype(old.dtype)
    return record_of(result)


def plus_vector(arrays: ArrayRecord, update: NDArray[np.float64]) -> ArrayRecord:
    """Return arrays with an update, `(dimension,)`, added to them, in their own dtypes."""
    return plus(arrays, split(update, arrays))
