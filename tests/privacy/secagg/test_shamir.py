"""Shamir shares: any threshold of them gives the secret; fewer reveal nothing, exhaustively in a small field."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.privacy.secagg.shamir import PRIME, combine, combine_key, split, split_key


def test_the_prime_is_the_smallest_above_every_key():
    def is_prime(
        n: int,
    ) -> bool:  # Miller and Rabin, to the first twelve primes: none of 2^256's size is known to fool it
        d, s = n - 1, 0
        while d % 2 == 0:
            d, s = d // 2, s + 1
        for a in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            x = pow(a, d, n)
            if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(s - 1)):
                return False
        return True

    assert is_prime(PRIME)
    assert not any(is_prime(n) for n in range(2**256, PRIME))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.randoms())
def test_any_threshold_of_shares_gives_the_key(secret, threshold, random):
    points = random.sample(range(1, 1000), random.randint(threshold, 12))
    shares = dict(zip(points, split_key(secret, threshold, points, os.urandom), strict=True))
    chosen = random.sample(points, random.randint(threshold, len(points)))
    assert combine_key({point: shares[point] for point in chosen}) == secret


def test_known_answer_of_google_federated_compute():
    """Its test's shares of 33 with threshold 3, in two limbs of 31 bits modulo 2^31 + 11, made by its Java version."""
    limbs = [
        (0x70CF762E, 0x6ED4AA1C),
        (0x30A0C5AC, 0x26EB91CC),
        (0x3F73EE90, 0x2844B747),
        (0x1D48F0CF, 0x72E01A8D),
        (0x4A1FCC74, 0x06BDBB88),
    ]
    for chosen in itertools.combinations(range(5), 3):
        found = [combine({i + 1: limbs[i][limb] for i in chosen}, 2**31 + 11) for limb in (0, 1)]
        assert found == [0, 33]


def all_polynomials(threshold: int, prime: int):
    """Yield sources of entropy that give each choice of the coefficients once."""
    for coefficients in itertools.product(range(prime), repeat=threshold - 1):
        drawn = itertools.cycle(coefficients)
        yield lambda size, drawn=drawn: next(drawn).to_bytes(size, "big")


@pytest.mark.parametrize("threshold", [2, 3])
def test_fewer_than_the_threshold_say_nothing(threshold):
    """Over all polynomials, what `threshold - 1` shares look like is the same whatever the secret."""
    prime, points = 5, [1, 2, 3, 4]
    for held in itertools.combinations(range(4), threshold - 1):
        views = {
            secret: Counter(
                tuple(split(secret, threshold, points, entropy, prime)[i] for i in held)
                for entropy in all_polynomials(threshold, prime)
            )
            for secret in range(prime)
        }
        assert all(view == views[0] for view in views.values())
        assert len(views[0]) == prime ** (threshold - 1)


def test_threshold_shares_determine_the_secret():
    """The control of the test above: with one share more, each secret looks different."""
    prime, points = 5, [1, 2, 3]
    views = [
        frozenset(tuple(split(secret, 2, points, e, prime)[:2]) for e in all_polynomials(2, prime))
        for secret in range(prime)
    ]
    assert all(not (a & b) for a, b in itertools.combinations(views, 2))


def test_coefficients_are_uniform_although_bytes_are_not():
    """A draw above the field is thrown away, not folded into it."""
    draws = iter([7, 6, 5, 2])  # of 3 bits; the field has 5
    shares = split(1, 2, [1, 2], lambda size: next(draws).to_bytes(size, "big"), 5)
    assert shares == [(1 + 2) % 5, (1 + 4) % 5]


@pytest.mark.parametrize(
    ("secret", "threshold", "points", "reason"),
    [
        (5, 2, [1, 2], "the secret is no element"),
        (-1, 2, [1, 2], "the secret is no element"),
        (1, 3, [1, 2], "threshold 3: must be from 1 to the 2 points"),
        (1, 0, [1, 2], "threshold 0"),
        (1, 2, [1, 1], "points must be distinct"),
        (1, 2, [0, 1], "points must be distinct and from 1"),
        (1, 2, [1, 5], "points must be distinct and from 1 to 4"),
    ],
)
def test_refused(secret, threshold, points, reason):
    with pytest.raises(ValueError, match=reason):
        split(secret, threshold, points, os.urandom, 5)


def test_wrong_shares_that_give_no_key_are_refused():
    shares = dict(enumerate(split(2**256 + 5, 2, [1, 2], os.urandom), 1))
    with pytest.raises(ValueError, match="at least one of them is wrong"):
        combine_key({point: share.to_bytes(33, "big") for point, share in shares.items()})
