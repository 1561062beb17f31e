"""Shamir's secret sharing (1979): any `threshold` shares give the secret, fewer reveal nothing about it.

A client's shares of its two secrets are encrypted for each neighbour.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from fedsim.privacy.secagg.primitives import KEY, TAG, Entropy, joined, seal, unseal
from fedsim.privacy.secagg.wire import id_bytes

PRIME = 2**256 + 297  # the smallest above every secret of 32 bytes
SHARE = 33  # bytes of an element of that field
SEALED = 2 * SHARE + TAG  # bytes of two encrypted shares


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
    """Return the secret of 32 bytes that `split_key` split; raises `ValueError` if the shares give none."""
    secret = combine({point: int.from_bytes(share, "big") for point, share in shares.items()})
    if secret >> (8 * KEY):
        raise ValueError("shares give no secret of 32 bytes: at least one of them is wrong")
    return secret.to_bytes(KEY, "big")


def seal_shares(sealing: bytes, me: int, other: int, session: bytes, shares: tuple[bytes, bytes]) -> bytes:
    """Encrypt a neighbour's shares of the key of one's pair masks, and of the secret of one's own mask.

    `sealing` is the key of the two clients' channel (32 bytes).
    """
    nonce, meant_for = _envelope(me, other, session)
    return seal(sealing, nonce, b"".join(shares), meant_for)


def unseal_shares(sealing: bytes, me: int, other: int, session: bytes, sealed: bytes) -> tuple[bytes, bytes]:
    """Decrypt a neighbour's shares.

    Raises `ValueError` if they were altered, are from another session or sender or for another client, or are invalid.
    """
    nonce, meant_for = _envelope(other, me, session)
    plain = unseal(sealing, nonce, sealed, meant_for)
    shares = plain[:SHARE], plain[SHARE:]
    if any(len(share) != SHARE or int.from_bytes(share, "big") >= PRIME for share in shares):
        raise ValueError(f"client {other} sent invalid shares")
    return shares


def _envelope(sender: int, receiver: int, session: bytes) -> tuple[bytes, bytes]:
    """Return nonce and associated data of a direction; a pair's key encrypts one message in each."""
    return bytes(11) + bytes([sender > receiver]), joined(session, id_bytes(sender), id_bytes(receiver))
