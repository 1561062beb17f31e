"""Vectors of integers modulo 2^bits, which clients mask and the server sums.

An element is held in a wider machine word, uint32 or uint64. As 2^bits divides 2^32 and 2^64, words are added and
subtracted directly; `pack` and `centred` drop the meaningless bits above `bits`. Operations work on pieces that stay
in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from fedsim.privacy.secagg.packing import pack, unpack

MOST_BITS = 62
SEED_SIZE = 32  # bytes: a key of AES-256
_BLOCK = 16  # bytes of an AES block
_PIECE = 1 << 17  # bytes of a key stream: stays in the cache

_U4 = np.dtype("<u4")
_U8 = np.dtype("<u8")


@dataclass(frozen=True)
class Ring:
    """The integers modulo 2^bits, with 2 to 62 bits, and operations on vectors of them.

    Other numbers of bits, and vectors of another dtype or of more dimensions than one, raise `ValueError`.

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
        """Return the low `bits` of each word, `(length,)`, without gaps, the lowest bit first, padded with zero bits."""
        self._check(values)
        return pack(values, self.bits)

    def unpack(self, data: bytes | memoryview, length: int) -> NDArray[Any]:
        """Return the vector, `(length,)`, that `pack` packed into `data`; no word has a bit above `bits`.

        Raises `ValueError` if `data` has another size, or its padding is not zero.
        """
        size = self.packed_size(length)
        if len(data) != size:
            raise ValueError(
                f"packed vector: has {len(data)} bytes, must have {size} for {length} elements of {self.bits} bits"
            )
        spare = 8 * size - length * self.bits
        if spare and data[-1] >> (8 - spare):
            raise ValueError(f"packed vector: its last {spare} bits must be 0")
        return unpack(data, self.bits, length, self.dtype)

    def centred(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return each word's representative in [-2^(bits-1), 2^(bits-1))."""
        self._check(values)
        above = 8 * self.dtype.itemsize - self.bits
        signed = (values << above).view(np.dtype(f"<i{self.dtype.itemsize}"))
        return (signed >> above).astype(np.int64, copy=False)

    def add_mask(self, values: NDArray[Any], seed: bytes | bytearray, sign: int = 1) -> None:
        """Add the mask of a seed to a vector, or subtract it; as `add_masks`."""
        self.add_masks(values, [(seed, sign)])

    def add_masks(self, values: NDArray[Any], masks: Iterable[tuple[bytes | bytearray, int]]) -> None:
        """Add or subtract the masks of seeds in place, piece by piece.

        A mask is the key stream of AES-256 in counter mode, from counter 0, as words. A seed must be used for one
        mask only. Neither the cipher nor NumPy holds Python's lock meanwhile.

        Args:
            values: Words, `(length,)`.
            masks: Pairs of a seed (the key: 32 bytes, secret and uniformly random) and a sign, 1 or -1.

        Raises:
            ValueError: An argument is invalid.
        """
        self._check(values)
        streams = []
        for seed, sign in masks:
            if sign not in (1, -1):
                raise ValueError(f"sign = {sign}: must be 1 or -1")
            streams.append((_cipher(seed), np.add if sign == 1 else np.subtract))
        zeros, buffer = _memory(values.nbytes, _PIECE)
        step = _PIECE // self.dtype.itemsize
        for start in range(0, len(values), step):
            piece = values[start : start + step]
            for cipher, apply in streams:
                cipher.update_into(zeros[: piece.nbytes], buffer.data)
                apply(piece, buffer[: piece.nbytes].view(self.dtype), out=piece)

    def add(self, total: NDArray[Any], values: NDArray[Any]) -> None:
        """Add a vector to a total of the same length, in place."""
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
    seed: bytes | bytearray, size: int, *, counter: bytes = bytes(_BLOCK), piece: int = _PIECE
) -> Iterator[NDArray[np.uint8]]:
    """Yield the key stream of AES-256 in counter mode (NIST SP 800-38A) in pieces.

    Args:
        seed: The key, 32 bytes.
        size: Bytes in all.
        counter: The first counter block, 16 bytes.
        piece: Bytes of a piece; the last one may be shorter.

    Yields:
        Pieces that share their memory: each is valid until the next is requested.

    Raises:
        ValueError: The key or the counter has a wrong size.
    """
    stream = _cipher(seed, counter)
    zeros, buffer = _memory(size, piece)
    for start in range(0, size, piece):
        count = stream.update_into(zeros[: size - start], buffer.data)
        yield buffer[:count]


def _cipher(seed: bytes | bytearray, counter: bytes = bytes(_BLOCK)) -> CipherContext:
    """Return AES-256 in counter mode; raises `ValueError` if the key or the counter has a wrong size."""
    if len(seed) != SEED_SIZE:
        raise ValueError(f"seed: {len(seed)} bytes, must be {SEED_SIZE}")
    return Cipher(algorithms.AES(seed), modes.CTR(counter)).encryptor()


def _memory(size: int, piece: int) -> tuple[memoryview, NDArray[np.uint8]]:
    """Return zeros to encrypt and an output buffer for a piece, with the extra space that `update_into` needs."""
    zeros = memoryview(bytes(min(size, piece)))
    return zeros, np.empty(len(zeros) + _BLOCK - 1, dtype=np.uint8)
