from itertools import pairwise
from random import Random

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.privacy.secagg.ring import Ring, key_stream

BORDER = 8 << 12  # values that are packed at a time
PIECE = 1 << 17  # bytes that the cipher makes at a time
ALL_BITS = st.integers(2, 62)


def words(ring: Ring, length: int, seed: int = 0) -> NDArray[np.unsignedinteger]:
    """Return words in which every bit is random, those above the ring's as well."""
    raw = np.random.default_rng([length, seed]).bytes(length * ring.dtype.itemsize)
    return np.frombuffer(raw, dtype=ring.dtype).copy()


def packed_bit_by_bit(values: NDArray[np.unsignedinteger], bits: int) -> bytes:
    table = (values[:, np.newaxis] >> np.arange(bits, dtype=values.dtype)) & 1
    return np.packbits(table.astype(np.uint8), bitorder="little").tobytes()


def one_shot(key: bytes, size: int, counter: bytes = bytes(16)) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(size))


@pytest.mark.parametrize(
    ("bits", "values", "packed"),
    [(5, [1, 3, 7, 15], "61 9c 07"), (9, [13, 17, 19], "0d 22 4c 00")],
)
def test_packing_of_google_federated_compute(bits: int, values: list[int], packed: str) -> None:
    ring = Ring(bits)
    assert ring.pack(np.array(values, dtype=ring.dtype)).hex(" ") == packed
    assert ring.unpack(bytes.fromhex(packed), len(values)).tolist() == values


@given(ALL_BITS, st.integers(0, 200), st.integers(0, 9))
def test_packing_is_bit_by_bit_and_unpacking_its_inverse(bits: int, length: int, seed: int) -> None:
    ring = Ring(bits)
    values = words(ring, length, seed)
    packed = ring.pack(values)
    assert packed == packed_bit_by_bit(values, bits)
    assert len(packed) == ring.packed_size(length)
    unpacked = ring.unpack(packed, length)
    assert unpacked.dtype == ring.dtype
    np.testing.assert_array_equal(unpacked, values & ring.dtype.type(2**bits - 1))


@pytest.mark.parametrize("bits", [2, 8, 16, 23, 31, 32, 33, 40, 62])
@pytest.mark.parametrize("length", [BORDER - 1, BORDER, BORDER + 1, 2 * BORDER + 13])
def test_long_vectors_are_packed_as_short_ones(bits: int, length: int) -> None:
    ring = Ring(bits)
    values = words(ring, length)
    packed = ring.pack(values)
    assert packed == packed_bit_by_bit(values, bits)
    np.testing.assert_array_equal(ring.unpack(packed, length), values & ring.dtype.type(2**bits - 1))


@pytest.mark.parametrize("bits", [23, 36])
def test_where_a_vector_lies_in_memory_does_not_matter(bits: int) -> None:
    ring = Ring(bits)
    values = words(ring, 1001)
    packed = ring.pack(values[1:].copy())
    assert ring.pack(values[1:]) == packed  # not aligned to what packing reads
    assert ring.pack(np.repeat(values[1:], 2)[::2]) == packed
    shifted = memoryview(b"x" + packed)[1:]
    np.testing.assert_array_equal(ring.unpack(shifted, 1000), ring.unpack(packed, 1000))


@given(ALL_BITS, st.integers(1, 40), st.integers(0, 7))
def test_bits_that_fill_up_must_be_zero(bits: int, length: int, bit: int) -> None:
    ring = Ring(bits)
    data = bytearray(ring.pack(words(ring, length)))
    fills_up = bit >= 8 - (8 * len(data) - length * bits)
    data[-1] |= 1 << bit
    if fills_up:
        with pytest.raises(ValueError, match="bits must be 0"):
            ring.unpack(bytes(data), length)
    else:
        assert ring.pack(ring.unpack(bytes(data), length)) == data


@given(ALL_BITS, st.integers(0, 40), st.integers(-3, 3).filter(bool))
def test_a_packed_vector_has_just_its_size(bits: int, length: int, more: int) -> None:
    ring = Ring(bits)
    size = ring.packed_size(length)
    with pytest.raises(ValueError, match=f"must have {size} for {length} elements of {bits} bits"):
        ring.unpack(bytes(max(size + more, 0) if size else 1), length)


@given(ALL_BITS, st.data())
def test_centred_takes_the_representative_nearest_to_zero(bits: int, data: st.DataObject) -> None:
    ring = Ring(bits)
    values = data.draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=20))
    above = data.draw(st.integers(0, 2 ** (8 * ring.dtype.itemsize - bits) - 1))
    residues = [(value % 2**bits) + above * 2**bits for value in values]
    centred = ring.centred(np.array(residues, dtype=ring.dtype))
    assert centred.dtype == np.int64
    assert centred.tolist() == values


def test_the_key_stream_is_that_of_nist_sp_800_38a() -> None:
    # F.5.5 and F.5.6, CTR-AES256: the stream is the plaintext XOR the ciphertext, in both directions.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    for piece in (16, 48, PIECE):
        stream = b"".join(part.tobytes() for part in key_stream(key, 64, counter=counter, piece=piece))
        assert bytes(a ^ b for a, b in zip(plaintext, stream, strict=True)) == ciphertext


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 20])
def test_the_key_stream_has_no_seams(size: int) -> None:
    seed = bytes(range(32))
    assert b"".join(part.tobytes() for part in key_stream(seed, size)) == one_shot(seed, size)


def test_every_bit_of_a_seed_counts() -> None:
    # Flower's SecAgg+ folds its keys to 32 bits by XOR: bits that cancel leave its masks as they were.
    seeds = [(1 << bit).to_bytes(32, "little") for bit in range(256)] + [bytes(32)]
    seeds += [bytes([1, 0, 0, 0] * 2 + [0] * 24), bytes([1, 0, 0, 0] * 4 + [0] * 16)]
    ring = Ring(32)
    masks = set()
    for seed in seeds:
        values = ring.zeros(4)
        ring.add_mask(values, seed)
        masks.add(values.tobytes())
    assert len(masks) == len(seeds)


@pytest.mark.parametrize("bits", [23, 32, 36])
@pytest.mark.parametrize("length", [0, 1, 1000, PIECE // 4, PIECE // 4 + 1])
def test_a_mask_is_the_key_stream_in_words(bits: int, length: int) -> None:
    ring = Ring(bits)
    seed = bytes(range(32))
    values = words(ring, length)
    masked = values.copy()
    ring.add_mask(masked, seed)
    mask = np.frombuffer(one_shot(seed, length * ring.dtype.itemsize), dtype=ring.dtype)
    np.testing.assert_array_equal(masked, values + mask)
    ring.add_mask(masked, bytearray(seed), -1)
    np.testing.assert_array_equal(masked, values)


@given(ALL_BITS, st.integers(0, 30), st.integers(2, 5), st.randoms())
def test_masks_of_pairs_cancel_in_the_sum_in_any_order(
    bits: int, length: int, clients: int, order: Random
) -> None:
    ring = Ring(bits)
    inputs = [words(ring, length, client) for client in range(clients)]
    uploads = []
    for u, values in enumerate(inputs):
        masked = values.copy()
        for v in set(range(clients)) - {u}:
            seed = bytes([min(u, v), max(u, v)] * 16)
            ring.add_mask(masked, seed, 1 if v < u else -1)
        uploads.append(ring.pack(masked))
    order.shuffle(uploads)
    total = ring.zeros(length)
    for upload in uploads:
        ring.add(total, ring.unpack(upload, length))
    expected = [sum(column) % 2**bits for column in zip(*(i.tolist() for i in inputs), strict=True)]
    assert [value % 2**bits for value in total.tolist()] == expected
    if length > 4 and bits > 8:  # the control: one upload that is missing
        ring.add(total, -ring.unpack(uploads[0], length))
        ring.add(total, inputs[0])
        assert [value % 2**bits for value in total.tolist()] != expected


@given(ALL_BITS, st.integers(1, 30))
def test_what_stands_above_the_bits_never_matters(bits: int, length: int) -> None:
    ring = Ring(bits)
    values = words(ring, length)
    other = values ^ (words(ring, length, 1) >> bits << bits)
    for vector in (values, other):
        ring.add_mask(vector, bytes(32))
        ring.add(vector, words(ring, length, 2))
    assert ring.pack(values) == ring.pack(other)
    np.testing.assert_array_equal(ring.centred(values), ring.centred(other))


@pytest.mark.parametrize("bits", [-1, 0, 1, 63, 64])
def test_rings_that_there_are_not(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits = {bits}: must be from 2 to 62"):
        Ring(bits)


def test_words_are_as_wide_as_they_must_be() -> None:
    assert [Ring(bits).dtype.itemsize for bits in (2, 32, 33, 62)] == [4, 4, 8, 8]
    assert all(Ring(a).packed_size(99) < Ring(b).packed_size(99) for a, b in pairwise(range(2, 63)))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(3, dtype=np.uint64),
        np.zeros(3, dtype=np.int32),
        np.zeros((1, 3), dtype=np.uint32),
        np.zeros(3),
    ],
)
def test_vectors_that_are_not_of_the_ring(values: NDArray[np.generic]) -> None:
    ring = Ring(23)
    calls = (
        lambda: ring.pack(values),
        lambda: ring.centred(values),
        lambda: ring.add_mask(values, bytes(32)),
        lambda: ring.add(values, ring.zeros(3)),
        lambda: ring.add(ring.zeros(3), values),
    )
    for call in calls:
        with pytest.raises(ValueError, match="must be uint32 of one dimension"):
            call()


def test_arguments_that_are_refused() -> None:
    ring = Ring(23)
    with pytest.raises(ValueError, match="sign = 0: must be 1 or -1"):
        ring.add_mask(ring.zeros(3), bytes(32), 0)
    for size in (0, 16, 31, 33):
        with pytest.raises(ValueError, match=f"seed: {size} bytes, must be 32"):
            ring.add_mask(ring.zeros(3), bytes(size))
    with pytest.raises(ValueError, match="values: 1 elements, must be 3 as in the total"):
        ring.add(ring.zeros(3), ring.zeros(1))  # which NumPy would broadcast
