"""Objects as bytes, with their arrays separate: a pickle would copy each array in and out again.

Here a pickle holds an array's index in a list, which the engine transports (not at all, by shared memory, by Ray's object
store). An array shared by several messages is in the list once, and so is a shared content, as a separate pickle: each
unpacked message gets its own copy.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, RecordDict

from fedsim.arrays import LiveArray, Values, values_of
from fedsim.flower.constants import NUMPY

LARGE = 1 << 16  # bytes objects from this size on are treated as arrays


class Packer:
    """Packs objects that travel together."""

    def __init__(self) -> None:
        self.arrays: list[Values] = []  # of all packed objects, each once
        self._places: dict[int, int] = {}
        self._kept: list[object] = []  # kept alive so that their ids stay unique

    def pack(self, item: object) -> bytes:
        """Return an object as bytes; `unpack` needs `arrays` beside them."""
        buffer = io.BytesIO()
        _Pickler(buffer, self, item).dump(item)
        return buffer.getvalue()

    def place(self, owner: object, values: Callable[[], Values]) -> int:
        """Return the index of the array of `owner`, calling `values` the first time."""
        place = self._places.get(id(owner))
        if place is None:
            made = values()  # may add arrays itself
            place = self._places[id(owner)] = len(self.arrays)
            self.arrays.append(made)
            self._kept.append(owner)
        return place


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, packer: Packer, whole: object) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._packer = packer
        self._whole = whole

    def persistent_id(self, item: object) -> tuple[str, int] | None:
        place, pack = self._packer.place, self._packer.pack
        if isinstance(item, Array) and item.stype == NUMPY:
            return "Array", place(item, lambda: values_of(item))
        if type(item) is np.ndarray and not item.dtype.hasobject:
            return "ndarray", place(item, lambda: item)
        if type(item) is bytes and len(item) >= LARGE:
            return "bytes", place(item, lambda: np.frombuffer(item, np.uint8))
        if type(item) is RecordDict and item is not self._whole:
            return "records", place(item, lambda: np.frombuffer(pack(item), np.uint8))
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Sequence[Values]) -> None:
        super().__init__(file)
        self._arrays = arrays

    def persistent_load(self, place: tuple[str, int]) -> object:
        kind, index = place
        values = self._arrays[index]
        if kind == "Array":
            return LiveArray(values)
        if kind == "ndarray":
            return values
        return values.tobytes() if kind == "bytes" else unpack(values.tobytes(), self._arrays)


def unpack(packed: bytes, arrays: Sequence[Values]) -> Any:
    """Return an object packed by `Packer.pack`, over `arrays` in the same order; nothing is copied."""
    return _Unpickler(io.BytesIO(packed), arrays).load()
