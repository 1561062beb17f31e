"""A Merkle tree over a roster: a client that knows the root checks its neighbours' entries without all others.

SHA-256, with different first bytes for leaves, inner nodes and the root, and with the number of leaves bound into the
root: no node passes for a leaf, and no tree for one of another size. A missing right half is a constant that is the
hash of no leaf and no node; all proofs have the same length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

HASH_BYTES = 32
_LEAF, _NODE, _ROOT, _NOTHING = b"\x00", b"\x01", b"\x02", b"\x03"


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


EMPTY = _hash(_NOTHING)


def depth(size: int) -> int:
    """Return the number of hashes in a proof: the binary logarithm of the number of leaves, rounded up.

    >>> depth(1), depth(2), depth(5), depth(1_000_000)
    (0, 1, 3, 20)
    """
    return (size - 1).bit_length()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root (32 bytes) over leaves, in their order; raises `ValueError` if there are none."""
    return _bind(_levels(leaves)[-1][0], len(leaves))


def prove(leaves: Sequence[bytes], indices: Iterable[int]) -> list[list[bytes]]:
    """Return for each index the proof that its leaf is there: `depth(len(leaves))` hashes of 32 bytes.

    Raises `ValueError` if there is no leaf at an index.
    """
    levels, proofs = _levels(leaves), []
    for index in indices:
        if not 0 <= index < len(leaves):
            raise ValueError(f"index {index}: must be from 0 to {len(leaves) - 1}")
        proofs.append([level[index >> height ^ 1] for height, level in enumerate(levels[:-1])])
    return proofs


def verify(root: bytes, leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bool:
    """Return whether a proof from `prove` shows that a leaf is at an index, from 0, of a tree of `size` leaves.

    The root, 32 bytes, is from a trusted source.
    """
    if not 0 <= index < size or len(proof) != depth(size) or any(len(part) != HASH_BYTES for part in proof):
        return False
    node, place = _hash(_LEAF, leaf), index
    for sibling in proof:
        node = _hash(_NODE, sibling, node) if place & 1 else _hash(_NODE, node, sibling)
        place >>= 1
    return _bind(node, size) == root


def _bind(top: bytes, size: int) -> bytes:
    return _hash(_ROOT, size.to_bytes(8, "big"), top)


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the hashes of the leaves, of the pairs above them, and so on to a single one; `EMPTY` completes a pair."""
    if not leaves:
        raise ValueError("a Merkle tree of no leaves: there must be 1 or more")
    levels = [[_hash(_LEAF, leaf) for leaf in leaves]]
    while len(level := levels[-1]) > 1:
        if len(level) % 2:
            level.append(EMPTY)
        levels.append([_hash(_NODE, *pair) for pair in zip(level[::2], level[1::2], strict=True)])
    return levels
