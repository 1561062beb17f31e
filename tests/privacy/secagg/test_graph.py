"""The random ring graph: its shape, who draws it, and that all orders are equally likely."""

import hashlib
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from fedsim.privacy.secagg.graph import neighbours, neighbours_of, permutation

SEED = bytes(range(32))


def seed_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


@given(st.binary(min_size=32, max_size=32), st.integers(3, 200), st.data())
def test_symmetric_regular_and_without_loops(seed: bytes, clients: int, data: st.DataObject) -> None:
    degree = data.draw(st.integers(1, max(1, (clients - 2) // 2))) * 2
    around = neighbours(seed, clients, degree)
    assert len(around) == clients
    for i, row in enumerate(around):
        assert list(row) == sorted(set(row) - {i})
        assert len(row) == min(degree, clients - 1)
        assert all(i in around[j] for j in row)
        assert row == neighbours_of(seed, clients, degree, i)


@pytest.mark.parametrize("clients", [1, 2, 3, 8])
def test_so_many_neighbours_are_the_complete_graph(clients: int) -> None:
    for degree in (clients - 1, clients, 50):
        around = neighbours(SEED, clients, degree)
        assert around == tuple(tuple(j for j in range(clients) if j != i) for i in range(clients))
        assert around[0] == neighbours_of(SEED, clients, degree, 0)


def test_a_ring_in_an_order_that_others_can_compute() -> None:
    # SHAKE-256 of the purpose, the seed and the number of the block; Fisher and Yates from the back.
    stream = hashlib.shake_256(b"fedsim/secagg/graph/1" + SEED + bytes(8)).digest(8192)
    ring = list(range(10))
    for step, last in enumerate(range(9, 0, -1)):
        word = int.from_bytes(stream[8 * step : 8 * step + 8], "little")
        assert word < 2**64 - 2**64 % (last + 1)
        ring[last], ring[word % (last + 1)] = ring[word % (last + 1)], ring[last]
    expected = {
        ring[place]: tuple(sorted(ring[(place + step) % 10] for step in (-2, -1, 1, 2)))
        for place in range(10)
    }
    assert dict(enumerate(neighbours(SEED, 10, 4))) == expected


def test_frozen() -> None:
    # What clients of one version compute, those of the next must, too.
    assert neighbours(SEED, 8, 4) == FROZEN
    assert neighbours_of(SEED, 100_000, 6, 99_999) == FROZEN_OF_MANY


FROZEN = (
    (2, 4, 5, 6),
    (3, 4, 6, 7),
    (0, 3, 5, 7),
    (1, 2, 4, 7),
    (0, 1, 3, 6),
    (0, 2, 6, 7),
    (0, 1, 4, 5),
    (1, 2, 3, 5),
)
FROZEN_OF_MANY = (32222, 42042, 46284, 65121, 74253, 88516)


def test_large_graphs_take_more_than_one_block_of_words() -> None:
    around = neighbours(SEED, 5000, 2)
    walked, before, here = 1, 0, around[0][0]
    while here != 0:  # a ring is one round trip
        here, before = next(j for j in around[here] if j != before), here
        walked += 1
        assert walked <= 5000
    assert walked == 5000


def statistic(counts: Counter[tuple[int, ...]], draws: int) -> float:
    expected = draws / 24
    return sum((counts[p] - expected) ** 2 / expected for p in itertools.permutations(range(4)))


def words(number: int, bits: int) -> "itertools.chain[int]":
    """Return an endless stream of words of a few bits."""
    blocks = (hashlib.shake_256(b"%d/%d" % (number, i)).digest(64) for i in itertools.count())
    return itertools.chain.from_iterable((byte >> (8 - bits) for byte in block) for block in blocks)


def test_all_orders_are_equally_likely() -> None:
    draws, limit = 12_000, chi2.isf(1e-4, 23)
    fair = Counter(tuple(permutation(words(i, 3), 4, 3)) for i in range(draws))
    assert statistic(fair, draws) < limit
    # The control: taking words modulo the range without passing any over is biased, and it shows.
    biased: Counter[tuple[int, ...]] = Counter()
    for i in range(draws):
        order, stream = [0, 1, 2, 3], words(i, 3)
        for last in (3, 2, 1):
            drawn = next(stream) % (last + 1)
            order[last], order[drawn] = order[drawn], order[last]
        biased[tuple(order)] += 1
    assert statistic(biased, draws) > limit


def test_words_above_the_last_multiple_are_passed_over() -> None:
    # Of 3-bit words, 6 and 7 are passed over for a draw from 3, none for draws from 4 and 2.
    assert permutation(iter([7, 7, 6, 5, 7]), 4, 3) == permutation(iter([7, 5, 7]), 4, 3)
    assert permutation(iter([3, 2, 1]), 4, 3) == [0, 1, 2, 3]


def test_every_bit_of_the_seed_counts() -> None:
    graphs = {neighbours(SEED, 50, 6)}
    for bit in range(256):
        flipped = bytearray(SEED)
        flipped[bit // 8] ^= 1 << bit % 8
        graphs.add(neighbours(bytes(flipped), 50, 6))
    assert len(graphs) == 257


def test_neighbours_are_anybody() -> None:
    draws = Counter(j for i in range(3000) for j in neighbours_of(seed_of(i), 7, 2, 3))
    assert set(draws) == {0, 1, 2, 4, 5, 6}
    assert sum((count - 1000) ** 2 / 1000 for count in draws.values()) < chi2.isf(1e-4, 5)


@pytest.mark.parametrize(
    ("seed", "clients", "degree", "says"),
    [
        (bytes(31), 10, 4, "seed of 31 bytes: must have 32"),
        (bytes(32), 10, 3, "degree 3 of 10 clients: must be even and 2 or more, or 9"),
        (bytes(32), 10, 0, "degree 0 of 10 clients"),
        (bytes(32), 0, 0, "a graph of 0 clients"),
    ],
)
def test_what_is_refused(seed: bytes, clients: int, degree: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        neighbours(seed, clients, degree)
    with pytest.raises(ValueError, match=says):
        neighbours_of(seed, clients, degree, 0)


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"index {index}: must be from 0 to 9"):
        neighbours_of(SEED, 10, 4, index)
