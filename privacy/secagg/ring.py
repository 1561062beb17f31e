"""Vectors of integers modulo 2^bits: what clients mask and the server adds up.

An element is held in a machine word that is wider than it, uint32 or uint64. As 2^bits divides 2^32 and 2^64,
words are added and subtracted as they are; what stands above `bits` means nothing and is dropped by `pack` and
`centred`. Everything works through pieces that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

MOST_BITS = 62
SEED_SIZE = 32  # bytes: a key of AES-256
_BLOCK = 16  # bytes of an AES block
_GROUP = 8  # values: as many bytes as a value has bits
_PIECE = 1 << 14  # values, whole groups of them: 64 or 128 KiB

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
        packed = np.empty((-(-length // _GROUP), self.bits), dtype=np.uint8)
        packing = _Packing(self.bits)
        for start in range(0, length, _PIECE):
            piece = np.ascontiguousarray(values[start : start + _PIECE])
            if len(piece) % _GROUP:
                piece = np.concatenate([piece, self.zeros(-len(piece) % _GROUP)])
            first = start // _GROUP
            packing.pack(piece, packed[first : first + len(piece) // _GROUP])
        return packed.reshape(-1)[: self.packed_size(length)].tobytes()

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
        packing = _Packing(self.bits)
        raw = np.frombuffer(data, dtype=np.uint8)
        step = _PIECE // _GROUP
        for first in range(0, groups, step):
            piece = raw[first * self.bits : (first + step) * self.bits]
            if len(piece) % self.bits:
                piece = np.concatenate([piece, np.zeros(-len(piece) % self.bits, dtype=np.uint8)])
            packing.unpack(piece.reshape(-1, self.bits), values[first * _GROUP : (first + step) * _GROUP])
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


def key_stream(seed: bytes, size: int, counter: bytes = bytes(_BLOCK)) -> Iterator[NDArray[np.uint8]]:
    """Yield the key stream of AES-256 in counter mode (NIST SP 800-38A) in pieces.

    Args:
        seed: The key, 32 bytes.
        size: Bytes in all.
        counter: The first counter block, 16 bytes.

    Yields:
        Pieces of whole 64 KiB, the last one maybe shorter. They share their memory: each is there until the
        next is asked for.

    Raises:
        ValueError: The key or the counter has a wrong size.
    """
    if len(seed) != SEED_SIZE:
        raise ValueError(f"seed: {len(seed)} bytes, must be {SEED_SIZE}")
    stream = Cipher(algorithms.AES(seed), modes.CTR(counter)).encryptor()
    piece = min(size, 4 * _PIECE)
    zeros = memoryview(bytes(piece))
    buffer = np.empty(piece + _BLOCK - 1, dtype=np.uint8)  # as much as update_into asks for
    for start in range(0, size, 4 * _PIECE):
        count = stream.update_into(zeros[: size - start], buffer.data)
        yield buffer[:count]


class _Packing:
    """Between words and bits, for whole groups: eight values of `bits` bits are `bits` whole bytes.

    A group's values become *lanes* of 64 bits (up to 32 bits, two neighbours share one), its lanes become a
    *row* of as few 64-bit words as hold them without gaps, and the row's first `bits` bytes are the result.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._paired = bits <= 32
        self._width = 2 * bits if self._paired else bits
        self._count = 4 if self._paired else 8
        groups = _PIECE // _GROUP
        self._row = np.zeros((groups, -(-bits // 8)), dtype=_U8)
        self._mask = _U8.type((1 << bits) - 1)
        self._high_mask = _U8.type(((1 << bits) - 1) << bits) if self._paired else _U8.type(0)

    def pack(self, values: NDArray[Any], out: NDArray[np.uint8]) -> None:
        """Pack whole groups of words, at most a piece, to bytes `(groups, bits)`."""
        if self._paired:
            pairs = values.view(_U8)
            lanes: NDArray[Any] = pairs >> (32 - self._bits)
            lanes &= self._high_mask
            lanes |= pairs & self._mask
        else:
            lanes = values & self._mask
        lanes = lanes.reshape(-1, self._count)
        rows = self._row[: len(lanes)]
        for i in range(self._count):
            word, shift = divmod(i * self._width, 64)
            if shift:
                rows[:, word] |= lanes[:, i] << shift
            else:
                rows[:, word] = lanes[:, i]
            if shift + self._width > 64:
                rows[:, word + 1] = lanes[:, i] >> (64 - shift)
        out[:] = rows.view(np.uint8)[:, : self._bits]

    def unpack(self, data: NDArray[np.uint8], out: NDArray[Any]) -> None:
        """Unpack bytes `(groups, bits)`, at most a piece, to words."""
        rows = self._row[: len(data)]
        rows.view(np.uint8)[:, : self._bits] = data
        lanes = np.empty((len(data), self._count), dtype=_U8)
        for i in range(self._count):
            word, shift = divmod(i * self._width, 64)
            np.right_shift(rows[:, word], shift, out=lanes[:, i])
            if shift + self._width > 64:
                lanes[:, i] |= rows[:, word + 1] << (64 - shift)
        flat = lanes.reshape(-1)
        if self._paired:
            high = (flat & self._high_mask) << (32 - self._bits)
            np.bitwise_or(flat & self._mask, high, out=out.view(_U8))
        else:
            np.bitwise_and(flat, self._mask, out=out)
