"""Packs the low bits of words into bytes without gaps, and unpacks them.

The lowest bit of the first value is the lowest bit of the first byte. Eight values of `bits` bits are a *group* of
`bits` whole bytes, so NumPy packs many groups at a time.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GROUP = 8  # values
_STEP = 1 << 12  # groups at a time: intermediate results stay in the cache

_U8 = np.dtype("<u8")


def pack(values: NDArray[Any], bits: int) -> bytes:
    """Return the low bits (1 to 64) of each value, `ceil(len(values) * bits / 8)` bytes, padded with zero bits.

    The values, `(length,)`, are little-endian uint32 for up to 32 bits, uint64 for more.
    """
    groups = -(-len(values) // _GROUP)
    packing = _Packing(bits, min(groups, _STEP))
    packed = BytesIO()
    for first in range(0, groups, _STEP):
        piece = np.ascontiguousarray(values[first * _GROUP : (first + _STEP) * _GROUP])
        if len(piece) % _GROUP:
            piece = np.concatenate([piece, np.zeros(-len(piece) % _GROUP, dtype=piece.dtype)])
        packed.write(packing.pack(piece))
    packed.truncate(-(-len(values) * bits // 8))
    return packed.getvalue()


def unpack(data: bytes | memoryview, bits: int, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values, `(length,)`, that `pack` packed into `data`; `dtype` is theirs."""
    groups = -(-length // _GROUP)
    values = np.empty(groups * _GROUP, dtype=dtype)
    packing = _Packing(bits, min(groups, _STEP))
    raw = np.frombuffer(data, dtype=np.uint8)
    for first in range(0, groups, _STEP):
        piece = raw[first * bits : (first + _STEP) * bits]
        if len(piece) % bits:
            piece = np.concatenate([piece, np.zeros(-len(piece) % bits, dtype=np.uint8)])
        packing.unpack(piece.view(f"V{bits}"), values[first * _GROUP : (first + _STEP) * _GROUP])
    return values[:length]


class _Packing:
    """Packs and unpacks whole groups.

    A group's values become *lanes* of 64 bits (up to 32 bits, two adjacent values share one). Its lanes become a
    *row* of the fewest 64-bit words without gaps, and the row's first `bits` bytes are the result. A lane begins in
    one word of the row and may spill into the next.

    Scratch memory, for at most `groups` groups in a call, is not cleared: leftovers of earlier calls are above a
    value's bits, and are masked.
    """

    def __init__(self, bits: int, groups: int) -> None:
        self._paired = bits <= 32
        self._apart = 32 - bits  # empty bits between two adjacent values
        self._low = _U8.type((1 << bits) - 1)  # the first value in a lane
        self._high = _U8.type((1 << bits) - 1 << bits if self._paired else 0)  # the second
        width, count = _lanes(bits)
        self._first = [lane * width // 64 for lane in range(count)]
        self._spills = [lane for lane in range(count) if lane * width % 64 + width > 64]
        self._left, self._right = _shifts(bits)
        self._lanes, self._spilt = np.empty((2, groups, count), dtype=_U8)
        words = -(-bits // 8)
        self._rows = np.empty((groups, words), dtype=_U8)
        group = np.dtype(f"V{bits}")
        self._row_groups = np.ndarray(groups, group, self._rows.data, strides=8 * words)
        self._packed = np.empty(groups, dtype=group)

    def pack(self, values: NDArray[Any]) -> memoryview:
        """Pack words, `(8 * groups,)`, to `groups * bits` bytes, valid until the next call."""
        groups = len(values) // _GROUP
        rows = self._rows[:groups]
        lanes, spilt = self._lanes[:groups].reshape(-1), self._spilt[:groups].reshape(-1)
        if self._paired:
            pairs = values.view(_U8)
            np.right_shift(pairs, self._apart, out=spilt)
            spilt &= self._high
            np.bitwise_and(pairs, self._low, out=lanes)
            lanes |= spilt
        else:
            np.bitwise_and(values, self._low, out=lanes)
        np.right_shift(lanes, self._right[: lanes.size], out=spilt)
        lanes <<= self._left[: lanes.size]
        columns, spilt_columns = self._lanes[:groups].T, self._spilt[:groups].T
        for word in range(rows.shape[1]):
            parts = [spilt_columns[lane] for lane in self._spills if self._first[lane] == word - 1]
            parts += [columns[lane] for lane, first in enumerate(self._first) if first == word]
            np.bitwise_or(parts[0], parts[1] if len(parts) > 1 else 0, out=rows[:, word])
            for part in parts[2:]:
                rows[:, word] |= part
        self._packed[:groups] = self._row_groups[:groups]
        return self._packed[:groups].data

    def unpack(self, data: NDArray[np.void], out: NDArray[Any]) -> None:
        """Unpack bytes, `(groups,)` items of `bits` bytes, to words, `(8 * groups,)`."""
        groups = len(data)
        rows = self._rows[:groups]
        self._row_groups[:groups] = data
        for lane, first in enumerate(self._first):
            self._lanes[:groups, lane] = rows[:, first]
        for lane in self._spills:
            self._spilt[:groups, lane] = rows[:, self._first[lane] + 1]
        lanes, spilt = self._lanes[:groups].reshape(-1), self._spilt[:groups].reshape(-1)
        lanes >>= self._left[: lanes.size]
        spilt <<= self._right[: lanes.size]
        lanes |= spilt
        if self._paired:
            np.bitwise_and(lanes, self._high, out=spilt)
            spilt <<= self._apart
            lanes &= self._low
            np.bitwise_or(lanes, spilt, out=out.view(_U8))
        else:
            np.bitwise_and(lanes, self._low, out=out)


def _lanes(bits: int) -> tuple[int, int]:
    """Return the width of a lane and the number of lanes in a group."""
    return (2 * bits, 4) if bits <= 32 else (bits, 8)


@lru_cache(maxsize=4)
def _shifts(bits: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return each lane's left shift to its place in a step, and right shift of its spill.

    Arrays cover all lanes, since NumPy is fast over contiguous arrays and slow over short rows.
    """
    width, count = _lanes(bits)
    left = np.tile(np.arange(count, dtype=_U8) * _U8.type(width) % _U8.type(64), _STEP)
    right = _U8.type(64) - left
    left.flags.writeable = right.flags.writeable = False
    return left, right
