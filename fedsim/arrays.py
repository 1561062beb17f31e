"""Flower `Array`s that hold a NumPy array, and become bytes only when someone asks for them.

Flower's own `Array` is a serialised one: building it copies the data twice, reading it once more. Inside a
simulation nothing needs the bytes, so what fedsim's server, clients and engines hand each other is a
`LiveArray`: an `Array` in every respect, whose bytes are made on first use.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedsim.flower.constants import NUMPY

Values = NDArray[Any]


class LiveArray(Array):
    """An `Array` over a NumPy array, which nobody may change any more; whoever has to, calls `detach` first.

    `numpy()` returns a copy, as Flower's does, so that who changes it changes nobody else's.
    """

    def __init__(self, values: Values) -> None:
        # Not through Flower's constructor, which would serialise.
        self.__dict__.update(
            _values=values, dtype=_name(values.dtype), shape=tuple(values.shape), stype=NUMPY
        )

    @property
    def data(self) -> bytes:
        """The array in NumPy's file format, as Flower sends it."""
        if self.__dict__.get("_data") is None:
            buffer = BytesIO()
            np.save(buffer, self.__dict__["_values"], allow_pickle=False)
            self.__dict__["_data"] = buffer.getvalue()
        serialised: bytes = self.__dict__["_data"]
        return serialised

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__["_data"] = value
        self.__dict__["_values"] = np.load(BytesIO(value), allow_pickle=False)

    def numpy(self) -> Values:
        """Return a copy of the array."""
        return np.array(self.__dict__["_values"], order="C")

    def detach(self) -> None:
        """Go on with a copy of the array; views that `values_of` has returned don't."""
        self.__dict__["_values"] = self.numpy()

    def deflate(self) -> bytes:
        """Return what Flower sends of an `Array`; a receiver that has no fedsim gets one of Flower's own."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[type[LiveArray], tuple[Values]]:
        return LiveArray, (self.__dict__["_values"],)


@functools.lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def values_of(array: Array) -> Values:
    """Return an `Array`'s values to read, without a copy where it is a `LiveArray`."""
    if isinstance(array, LiveArray):
        values: Values = array.__dict__["_values"]
        return values
    return array.numpy()


def arrays_in(record: ArrayRecord) -> dict[str, Values]:
    """Return a record's arrays to read, by name, in its order."""
    return {name: values_of(array) for name, array in record.items()}


def record_of(values: Mapping[str, Values]) -> ArrayRecord:
    """Return an `ArrayRecord` of `LiveArray`s (its own constructor would serialise them)."""
    record = ArrayRecord()
    for name, array in values.items():
        record[name] = LiveArray(array)
    return record
