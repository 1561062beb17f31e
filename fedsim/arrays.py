"""Flower `Array`s that hold a NumPy array, and are serialised only on demand.

Flower's own `Array` is serialised: building it copies the data twice, reading it once more. A simulation does not
need the bytes, so fedsim's server, clients and engines exchange `LiveArray`s, which serialise on first use.

An array from another machine is read by `checked_values`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedsim.flower.constants import NUMPY

Values = NDArray[Any]
HEADERS = {  # readers of a header: shape, whether the order is Fortran's, dtype
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class LiveArray(Array):
    """An `Array` over a NumPy array that must not change any more; call `detach` before changing it.

    `numpy()` returns a copy, as Flower's does.
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
        """Replace the array by a copy; views returned by `values_of` keep the old one."""
        self.__dict__["_values"] = self.numpy()

    def deflate(self) -> bytes:
        """Return Flower's serialised form; a receiver without fedsim gets an `Array` of Flower's."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[type[LiveArray], tuple[Values]]:
        return LiveArray, (self.__dict__["_values"],)


@functools.lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def values_of(array: Array) -> Values:
    """Return an `Array`'s values for reading, without a copy for a `LiveArray`."""
    if isinstance(array, LiveArray):
        values: Values = array.__dict__["_values"]
        return values
    return array.numpy()


def checked_values(array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
    """Return the values of a foreign `Array` for reading, if it has this shape and dtype; nothing larger is allocated.

    Raises:
        ValueError: It has another shape or dtype, or its bytes are no array in NumPy's file format.
    """
    if isinstance(array, LiveArray):
        values = values_of(array)
        _check_form(values.shape, str(values.dtype), shape, dtype)
        return values
    if array.stype != NUMPY:
        raise ValueError(f"as {array.stype!r}, not {NUMPY!r}")
    _check_form(array.shape, array.dtype, shape, dtype)
    file = BytesIO(array.data)
    try:
        header = HEADERS[np.lib.format.read_magic(file)](file)
    except Exception:  # a foreign header raises exceptions of many classes
        raise ValueError("as damaged bytes") from None
    if header[0] != shape or header[2] != dtype or len(array.data) - file.tell() != _size(shape, dtype):
        raise ValueError("as damaged bytes")
    flat = np.frombuffer(array.data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if header[1] else "C")


def _check_form(got: tuple[int, ...], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if tuple(got) != shape:
        raise ValueError(f"with shape {tuple(got[:8])}, not {shape}")
    if name != _name(dtype):
        raise ValueError(f"as {name}, not {dtype}")


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def arrays_in(record: ArrayRecord) -> dict[str, Values]:
    """Return a record's arrays to read, by name, in its order."""
    return {name: values_of(array) for name, array in record.items()}


def record_of(values: Mapping[str, Values]) -> ArrayRecord:
    """Return an `ArrayRecord` of `LiveArray`s (its own constructor would serialise them)."""
    record = ArrayRecord()
    for name, array in values.items():
        record[name] = LiveArray(array)
    return record
