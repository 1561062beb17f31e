"""Merkle proofs: members have one, and others don't."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.privacy.secagg import merkle

LEAVES = st.lists(st.binary(max_size=5), min_size=1, max_size=20)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def by_halves(leaves: list[bytes], size: int) -> bytes:
    """Return the top hash over `size` places, a power of two, from the top down."""
    if not leaves:
        return sha(b"\x03")
    if size == 1:
        return sha(b"\x00", leaves[0])
    half = size // 2
    return sha(b"\x01", by_halves(leaves[:half], half), by_halves(leaves[half:], half))


@given(LEAVES)
def test_the_root_is_that_of_the_tree_by_halves(leaves: list[bytes]) -> None:
    top = by_halves(leaves, 1 << merkle.depth(len(leaves)))
    assert merkle.root(leaves) == sha(b"\x02", len(leaves).to_bytes(8, "big"), top)


@given(LEAVES)
def test_every_leaf_is_shown_to_be_in(leaves: list[bytes]) -> None:
    root, size = merkle.root(leaves), len(leaves)
    proofs = merkle.prove(leaves, range(size))
    for index, proof in enumerate(proofs):
        assert proof == merkle.prove(leaves, [index])[0]
        assert len(proof) == merkle.depth(size)
        assert merkle.verify(root, leaves[index], index, size, proof)


@given(LEAVES, st.data())
def test_a_changed_byte_anywhere_is_seen(leaves: list[bytes], data: st.DataObject) -> None:
    root, size = merkle.root(leaves), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.prove(leaves, [index])[0]
    whole = root + leaves[index] + b"".join(proof)
    at, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(whole)
    changed[at] ^= change
    end = 32 + len(leaves[index])
    parts = [bytes(changed[i : i + 32]) for i in range(end, len(changed), 32)]
    assert not merkle.verify(bytes(changed[:32]), bytes(changed[32:end]), index, size, parts)


@given(LEAVES, st.data())
def test_another_place_size_or_length_is_refused(leaves: list[bytes], data: st.DataObject) -> None:
    root, size = merkle.root(leaves), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    leaf, proof = leaves[index], merkle.prove(leaves, [index])[0]
    other = data.draw(st.integers(-2, size + 2).filter(lambda i: i != index))
    if merkle.verify(root, leaf, other, size, proof):
        assert 0 <= other < size
        assert leaves[other] == leaf  # it is there, too
    for wrong in (size - 1, size + 1, 2 * size, 1 << merkle.depth(size)):
        assert wrong == size or not merkle.verify(root, leaf, index, wrong, proof)
    for parts in (proof[:-1], [*proof, merkle.EMPTY], [*proof, bytes(32)]):
        assert parts == proof or not merkle.verify(root, leaf, index, size, parts)
    if proof:
        assert not merkle.verify(root, leaf, index, size, [proof[0][:-1], *proof[1:]])


@given(LEAVES, st.binary(max_size=5))
def test_what_is_not_in_has_no_proof(leaves: list[bytes], other: bytes) -> None:
    root, size = merkle.root(leaves), len(leaves)
    for index in range(size):
        shown = merkle.verify(root, other, index, size, merkle.prove(leaves, [index])[0])
        assert shown == (leaves[index] == other)


def test_a_node_is_no_leaf_and_a_tree_is_no_other_tree() -> None:
    a, b, c, d = b"a", b"b", b"c", b"d"
    left, right = sha(b"\x00", a) + sha(b"\x00", b), sha(b"\x00", c) + sha(b"\x00", d)
    assert merkle.root([a, b, c, d]) != merkle.root([left, right])
    assert merkle.root([a, b, c, d]) != merkle.root([b"\x01" + left, b"\x01" + right])
    assert merkle.root([a, b, c]) != merkle.root([a, b, c, c])  # as where the last one is doubled
    assert merkle.root([a, b, c]) != merkle.root([a, b, c, b""])
    assert merkle.root([a, b, c]) != merkle.root([a, b, c, b"\x03"])
    assert merkle.root([a]) != sha(b"\x00", a)


def test_frozen() -> None:
    leaves = [bytes([i]) for i in range(5)]
    assert merkle.root(leaves).hex() == FROZEN


FROZEN = "663069c631dd005720a3e7dfaee3d6a51fe97e9ce2851f470250a8538d6ce5ef"


def test_no_leaf_and_no_such_index_are_refused() -> None:
    with pytest.raises(ValueError, match="no leaves"):
        merkle.root([])
    for index in (-1, 3):
        with pytest.raises(ValueError, match=f"index {index}: must be from 0 to 2"):
            merkle.prove([b"a", b"b", b"c"], [index])[0]
