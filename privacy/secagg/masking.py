"""The masks: each client's own, and one that each pair of neighbours derives, with opposite signs."""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.privacy.secagg.primitives import AgreementKey, derive, digest
from fedsim.privacy.secagg.wire import id_bytes


def own_seed(secret: bytes, session: bytes) -> bytes:
    """Return the seed of a client's own mask, from its shared secret."""
    return derive(secret, b"own-mask", session)


def own_commitment(client: int, secret: bytes, session: bytes) -> bytes:
    """Return a commitment (32 bytes) to that secret, which exposes wrong shares of it."""
    return digest(b"own-mask", session, id_bytes(client), secret)


def pair_key(
    purpose: bytes, key: AgreementKey, client: int, public: bytes, other: int, session: bytes
) -> bytes:
    """Return a pair's key (32 bytes) for a purpose, the same from either's private and the other's public key."""
    first, second = sorted((client, other))
    return derive(key.agree(public), purpose, session, id_bytes(first), id_bytes(second))


def pair_masks(
    key: AgreementKey, client: int, others: Mapping[int, bytes], session: bytes
) -> list[tuple[bytes, int]]:
    """Return the masks that a client shares with others, for `Ring.add_masks`: seeds and signs.

    The sign is plus for others with smaller numbers, minus for greater ones. Added to a sum of the others' vectors
    without the client's, the masks cancel. `others` are public keys, by client.
    """
    return [
        (pair_key(b"pair-mask", key, client, public, other, session), 1 if other < client else -1)
        for other, public in others.items()
    ]
