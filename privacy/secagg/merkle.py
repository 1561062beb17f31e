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
    """Return the root over leaves, in their order: 32 bytes.

    Raises:
        ValueError: There is no leaf.
    """
    return _bind(_levels(leaves)[-1][0], len(leaves))


def prove(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the proof that a leaf is at an index: `depth(len(leaves))` hashes of 32 bytes.

    Raises:
        ValueError: There is no leaf at the index.
    """
    return prove_all(leaves, [index])[0]


def prove_all(leaves: Sequence[bytes], indices: Iterable[int]) -> list[list[bytes]]:
    """Return the proofs for several indices, in their order; the tree is built once.

    Raises:
        ValueError: There is no leaf at an index.
    """
    levels = _levels(leaves)
    return [_proof(levels, index, len(leaves)) for index in indices]


def verify(root: bytes, leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bool:
    """Return whether a proof shows that a leaf is at an index of a tree of `size` leaves with a root.

    Args:
        root: 32 bytes, from a trusted source.
        leaf: Any bytes.
        index: From 0.
        size: The number of leaves.
        proof: From `prove`.
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
    """Return the hashes of the leaves, of the pairs above them, and so on to a single one."""
    if not leaves:
        raise ValueError("a Merkle tree of no leaves: there must be 1 or more")
    levels = [[_hash(_LEAF, leaf) for leaf in leaves]]
    while len(levels[-1]) > 1:
        below = levels[-1] + [EMPTY] * (len(levels[-1]) % 2)
        levels.append([_hash(_NODE, below[i], below[i + 1]) for i in range(0, len(below), 2)])
    return levels


def _proof(levels: Sequence[Sequence[bytes]], index: int, size: int) -> list[bytes]:
    if not 0 <= index < size:
        raise ValueError(f"index {index}: must be from 0 to {size - 1}")
    proof = []
    for level in levels[:-1]:
        sibling = index ^ 1
        proof.append(level[sibling] if sibling < len(level) else EMPTY)
        index >>= 1
    return proof
