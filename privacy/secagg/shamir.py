"""Shamir's secret sharing (1979): any `threshold` shares give the secret, fewer reveal nothing about it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from fedsim.privacy.secagg.primitives import KEY, Entropy

PRIME = 2**256 + 297  # the smallest above every secret of 32 bytes
SHARE = 33  # bytes of an element of that field


def split(
    secret: int, threshold: int, points: Sequence[int], entropy: Entropy, prime: int = PRIME
) -> list[int]:
    """Return a share of a secret for each point.

    Shares are values of a polynomial of degree `threshold - 1`: its constant is the secret, and its other
    coefficients are uniform over the field.

    Args:
        secret: From 0 to `prime - 1`.
        threshold: Shares needed, from 1 to the number of points.
        points: Distinct, from 1 to `prime - 1`.
        entropy: Draws the coefficients.
        prime: The field's size.

    Raises:
        ValueError: An argument is out of range.
    """
    if not 0 <= secret < prime:
        raise ValueError("the secret is no element of the field")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold {threshold}: must be from 1 to the {len(points)} points")
    if len(set(points)) != len(points) or not all(1 <= point < prime for point in points):
        raise ValueError(f"points must be distinct and from 1 to {prime - 1}")
    coefficients = [_uniform(entropy, prime) for _ in range(threshold - 1)]
    shares = []
    for point in points:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value + coefficient) * point % prime
        shares.append((value + secret) % prime)
    return shares


def combine(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """Return the secret of at least `threshold` shares, by point; with fewer the result is wrong."""
    points = tuple(sorted(shares))
    return sum(map(int.__mul__, _weights(points, prime), (shares[point] for point in points))) % prime


@functools.lru_cache(maxsize=4096)
def _weights(points: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """Return the Lagrange weights at some points for the value at 0."""
    weights = []
    for point in points:
        above, below = 1, 1
        for other in points:
            if other != point:
                above = above * other % prime
                below = below * (other - point) % prime
        weights.append(above * pow(below, -1, prime) % prime)
    return tuple(weights)


def _uniform(entropy: Entropy, prime: int) -> int:
    """Draw a uniform element of the field, by rejection."""
    bits = prime.bit_length()
    while True:
        drawn = int.from_bytes(entropy(-(-bits // 8)), "big") & ((1 << bits) - 1)
        if drawn < prime:
            return drawn


def split_key(secret: bytes, threshold: int, points: Sequence[int], entropy: Entropy) -> list[bytes]:
    """Return shares (33 bytes each) of a secret of 32 bytes; else as `split`."""
    return [
        share.to_bytes(SHARE, "big")
        for share in split(int.from_bytes(secret, "big"), threshold, points, entropy)
    ]


def combine_key(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of 32 bytes that `split_key` split.

    Raises:
        ValueError: The shares give no such secret.
    """
    secret = combine({point: int.from_bytes(share, "big") for point, share in shares.items()})
    if secret >> (8 * KEY):
        raise ValueError("shares give no secret of 32 bytes: at least one of them is wrong")
    return secret.to_bytes(KEY, "big")
