"""Vectors of integers modulo 2^bits: what clients mask and the server adds up.

An element is held in a machine word that is wider than it, uint32 or uint64. As 2^bits divides 2^32 and 2^64,
words are added and subtracted as they are; what stands above `bits` means nothing and is dropped by `pack` and
`centred`. Everything works through pieces that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

MOST_BITS = 62
SEED_SIZE = 32  # bytes: a key of AES-256
_BLOCK = 16  # bytes of an AES block
_GROUP = 8  # values: as many bytes as a value has bits
_PIECE = 1 << 15  # values: 128 or 256 KiB
_STEP = _PIECE // _GROUP

_U4 = np.dtype("<u4")
_U8 = np.dtype("<u8")


@dataclass(frozen=True)
class Ring:
    """The integers modulo 2^bits.

    Attributes:
        bits: 2 to 62.

    Raises:
        ValueError: `bits` is out of range.

    >>> ring = Ring(5)
    >>> ring.pack(np.array([1, 3, 7, 15], dtype=ring.dtype)).hex(" ")
    '61 9c 07'
    >>> ring.centred(np.array([1, 15, 16, 31], dtype=ring.dtype)).tolist()
    [1, 15, -16, -1]
    """

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= MOST_BITS:
            raise ValueError(f"bits = {self.bits}: must be from 2 to {MOST_BITS}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The words' dtype: uint32 for up to 32 bits, else uint64, little-endian."""
        return _U4 if self.bits <= 32 else _U8

    def zeros(self, length: int) -> NDArray[Any]:
        """Return the zero vector, `(length,)`."""
        return np.zeros(length, dtype=self.dtype)

    def packed_size(self, length: int) -> int:
        """Return the bytes of a packed vector of `length` elements: `ceil(length * bits / 8)`."""
        return -(-length * self.bits // 8)

    def pack(self, values: NDArray[Any]) -> bytes:
        """Return the low `bits` of each word, one after the other, the lowest bit first; the last byte is
        filled up with zeros.

        Args:
            values: Words, `(length,)`.

        Raises:
            ValueError: The shape or dtype is wrong.
        """  # noqa: D205
        self._check(values)
        length = len(values)
        groups = -(-length // _GROUP)
        packing = _Packing(self.bits, min(groups, _STEP))
        packed = BytesIO()
        for first in range(0, groups, _STEP):
            piece = np.ascontiguousarray(values[first * _GROUP : (first + _STEP) * _GROUP])
            if len(piece) % _GROUP:
                piece = np.concatenate([piece, self.zeros(-len(piece) % _GROUP)])
            packed.write(packing.pack(piece))
        packed.truncate(self.packed_size(length))
        return packed.getvalue()

    def unpack(self, data: bytes, length: int) -> NDArray[Any]:
        """Return the vector that `pack` made `data` of, `(length,)`; no word has a bit above `bits`.

        Raises:
            ValueError: `data` has another size, or isn't zero where it is filled up.
        """
        size = self.packed_size(length)
        if len(data) != size:
            raise ValueError(
                f"packed vector: has {len(data)} bytes, must have {size} for {length} elements of {self.bits} bits"
            )
        spare = 8 * size - length * self.bits
        if spare and data[-1] >> (8 - spare):
            raise ValueError(f"packed vector: its last {spare} bits must be 0")
        groups = -(-length // _GROUP)
        values = np.empty(groups * _GROUP, dtype=self.dtype)
        packing = _Packing(self.bits, min(groups, _STEP))
        for first in range(0, groups, _STEP):
            piece = data[first * self.bits : (first + _STEP) * self.bits]
            piece += bytes(-len(piece) % self.bits)
            packing.unpack(
                np.frombuffer(piece, dtype=f"V{self.bits}"),
                values[first * _GROUP : (first + _STEP) * _GROUP],
            )
        return values[:length]

    def centred(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return each word's representative in [-2^(bits-1), 2^(bits-1))."""
        self._check(values)
        above = 8 * self.dtype.itemsize - self.bits
        signed = (values << above).view(np.dtype(f"<i{self.dtype.itemsize}"))
        return (signed >> above).astype(np.int64, copy=False)

    def add_mask(self, values: NDArray[Any], seed: bytes, sign: int = 1) -> None:
        """Add the mask of a seed to a vector, in place, or subtract it.

        The mask is the key stream of AES-256 in counter mode, from counter 0, cut into words. A seed must be
        used for one mask only.

        Args:
            values: Words, `(length,)`.
            seed: The key, 32 bytes, secret and uniformly random.
            sign: 1 or -1.

        Raises:
            ValueError: An argument is not as it must be.
        """
        self._check(values)
        if sign not in (1, -1):
            raise ValueError(f"sign = {sign}: must be 1 or -1")
        apply = np.add if sign == 1 else np.subtract
        start = 0
        for stream in key_stream(seed, values.nbytes):
            words = stream.view(self.dtype)
            piece = values[start : start + len(words)]
            apply(piece, words, out=piece)
            start += len(words)

    def add(self, total: NDArray[Any], values: NDArray[Any]) -> None:
        """Add a vector to a total, in place.

        Raises:
            ValueError: A shape or dtype is wrong.
        """
        self._check(total)
        self._check(values)
        if len(total) != len(values):
            raise ValueError(f"values: {len(values)} elements, must be {len(total)} as in the total")
        np.add(total, values, out=total)

    def _check(self, values: NDArray[Any]) -> None:
        if values.dtype != self.dtype or values.ndim != 1:
            raise ValueError(
                f"values: {values.dtype} of shape {values.shape}, must be {self.dtype} of one dimension"
            )


def key_stream(
    seed: bytes, size: int, *, counter: bytes = bytes(_BLOCK), piece: int = 4 * _PIECE
) -> Iterator[NDArray[np.uint8]]:
    """Yield the key stream of AES-256 in counter mode (NIST SP 800-38A) in pieces.

    Args:
        seed: The key, 32 bytes.
        size: Bytes in all.
        counter: The first counter block, 16 bytes.
        piece: Bytes of a piece; the last one may be shorter.

    Yields:
        Pieces that share their memory: each is there until the next is asked for.

    Raises:
        ValueError: The key or the counter has a wrong size.
    """
    if len(seed) != SEED_SIZE:
        raise ValueError(f"seed: {len(seed)} bytes, must be {SEED_SIZE}")
    stream = Cipher(algorithms.AES(seed), modes.CTR(counter)).encryptor()
    zeros = memoryview(bytes(min(size, piece)))
    buffer = np.empty(len(zeros) + _BLOCK - 1, dtype=np.uint8)  # as much as update_into asks for
    for start in range(0, size, piece):
        count = stream.update_into(zeros[: size - start], buffer.data)
        yield buffer[:count]


class _Packing:
    """Between words and bits, for whole groups: eight values of `bits` bits are `bits` whole bytes.

    A group's values become *lanes* of 64 bits (up to 32 bits, two neighbours share one), its lanes become a
    *row* of as few 64-bit words as hold them without gaps, and the row's first `bits` bytes are the result.
    A lane begins in the row at bit `starts[lane]`, in the word `first[lane]`; it may spill into the next word.

    Args:
        bits: Of a value.
        groups: At most in a call.
    """

    def __init__(self, bits: int, groups: int) -> None:
        self._paired = bits <= 32
        self._apart = 32 - bits  # empty bits between two neighbours
        width, count = (2 * bits, 4) if self._paired else (bits, 8)
        starts = np.arange(count, dtype=_U8) * _U8.type(width)
        self._first = (starts // 64).tolist()
        self._spills = [lane for lane in range(count) if starts[lane] % 64 + width > 64]
        # As long as all lanes, for NumPy's loops are fast over arrays without gaps and slow over short rows.
        self._left = np.tile(starts % 64, groups)
        self._right = 64 - self._left
        self._lanes, self._spilt = np.zeros((2, groups, count), dtype=_U8)
        words = -(-bits // 8)
        self._rows = np.zeros((groups, words), dtype=_U8)
        self._group = np.dtype(f"V{bits}")
        self._packed = np.empty(groups, self._group)
        self._row_groups = np.ndarray(groups, self._group, self._rows.data, strides=8 * words)
        self._low = _U8.type((1 << bits) - 1)  # the first value in a lane
        self._high = _U8.type((1 << bits) - 1 << bits if self._paired else 0)  # the second

    def pack(self, values: NDArray[Any]) -> memoryview:
        """Pack words, `(8 * groups,)`, to `groups * bits` bytes, which are there until the next call."""
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
