"""Objects as bytes, with their arrays put aside.

Pickling a message copies each of its arrays into the pickle and out of it again. Here a pickle holds only
the place of an array in a list; how the list travels (not at all, through shared memory, through Ray's
object store) is the engine's business. An array that several messages share stands in the list once, and so does
a content that they share, as a pickle of its own: each message that is unpacked gets another copy of it.
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

LARGE = 1 << 16  # bytes objects from this size on travel as arrays do


class Packer:
    """Packs objects that travel together.

    Attributes:
        arrays: The arrays of all that was packed, each once.
    """

    def __init__(self) -> None:
        self.arrays: list[Values] = []
        self._places: dict[int, int] = {}
        self._kept: list[object] = []  # as long as they live, no other object has their id

    def pack(self, item: object) -> bytes:
        """Return an object as bytes; `unpack` needs `arrays` beside them."""
        buffer = io.BytesIO()
        _Pickler(buffer, self, item).dump(item)
        return buffer.getvalue()

    def place(self, owner: object, values: Callable[[], Values]) -> int:
        """Return the place of the array that stands for `owner`; the first time it is asked for."""
        place = self._places.get(id(owner))
        if place is None:
            made = values()  # which may find places for what it holds
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
        """Return the place of what is an array, None for all else."""
        if isinstance(item, Array):
            if item.stype != NUMPY:
                return None
            return "Array", self._packer.place(item, lambda: values_of(item))
        if type(item) is np.ndarray and not item.dtype.hasobject:
            return "ndarray", self._packer.place(item, lambda: item)
        if type(item) is bytes and len(item) >= LARGE:
            return "bytes", self._packer.place(item, lambda: np.frombuffer(item, np.uint8))
        if type(item) is RecordDict and item is not self._whole:
            return "records", self._packer.place(
                item, lambda: np.frombuffer(self._packer.pack(item), np.uint8)
            )
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Sequence[Values]) -> None:
        super().__init__(file)
        self._arrays = arrays

    def persistent_load(self, place: tuple[str, int]) -> object:
        """Return what stands at a place."""
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
