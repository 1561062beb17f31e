"""Binary messages: numbers of fixed width, one after another, read to the last byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

ID = 8  # bytes of a client's number
INDEX = 4  # bytes of a client's place in the roster


class Reader:
    """Reads a message; raises `ValueError` if it is too short or too long."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        taken = self._message[self._at : self._at + size]
        if len(taken) != size:
            raise ValueError(f"a message is cut off: it has {len(self._message)} bytes")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        """Return the next bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    @property
    def left(self) -> bool:
        """Whether bytes are left."""
        return self._at < len(self._message)

    def end(self) -> None:
        """Refuse remaining bytes."""
        if self.left:
            raise ValueError(f"a message has {len(self._message) - self._at} bytes too many")


def id_bytes(client: int) -> bytes:
    """Return a client's number as bytes."""
    return client.to_bytes(ID, "big")


def index_bytes(index: int) -> bytes:
    """Return a place in the roster as bytes."""
    return index.to_bytes(INDEX, "big")


def bitmap(members: Iterable[int], size: int) -> bytes:
    """Return a set of places below `size` as bits, the first place as the lowest bit of the first byte."""
    bits = bytearray(-(-size // 8))
    for member in members:
        bits[member >> 3] |= 1 << (member & 7)
    return bytes(bits)


def members_of(bits: bytes, size: int) -> frozenset[int]:
    """Return the places in a bitmap; raises `ValueError` if it has another length, or a place beyond `size`."""
    members = frozenset(8 * i + j for i, byte in enumerate(bits) if byte for j in range(8) if byte >> j & 1)
    if len(bits) != -(-size // 8) or max(members, default=-1) >= size:
        raise ValueError(f"a list of uploads does not fit a roster of {size}")
    return members


def must_ascend(values: Sequence[int], what: str) -> None:
    """Raise `ValueError` unless values are strictly ascending."""
    if any(left >= right for left, right in itertools.pairwise(values)):
        raise ValueError(f"{what} are repeated or out of order")
