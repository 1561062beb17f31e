"""Shares of a client's two secrets, encrypted for each neighbour."""

from __future__ import annotations

from fedsim.privacy.secagg.primitives import TAG, AgreementKey, derive, joined, seal, unseal
from fedsim.privacy.secagg.shamir import PRIME, SHARE
from fedsim.privacy.secagg.wire import id_bytes

SEALED = 2 * SHARE + TAG  # bytes


def sealing_key(key: AgreementKey, me: int, public: bytes, other: int, session: bytes) -> bytes:
    """Return the key (32 bytes) of two clients' channel, from one's private and the other's public key."""
    first, second = sorted((me, other))
    return derive(key.agree(public), b"shares", session, id_bytes(first), id_bytes(second))


def seal_shares(sealing: bytes, me: int, other: int, session: bytes, shares: tuple[bytes, bytes]) -> bytes:
    """Encrypt a neighbour's shares of the key of one's pair masks, and of the secret of one's own mask."""
    return seal(sealing, _nonce(me, other), b"".join(shares), _meant_for(me, other, session))


def unseal_shares(sealing: bytes, me: int, other: int, session: bytes, sealed: bytes) -> tuple[bytes, bytes]:
    """Decrypt a neighbour's shares.

    Raises:
        ValueError: They were altered, are from another session or sender or for another client, or are invalid.
    """
    plain = unseal(sealing, _nonce(other, me), sealed, _meant_for(other, me, session))
    shares = plain[:SHARE], plain[SHARE:]
    if any(len(share) != SHARE or int.from_bytes(share, "big") >= PRIME for share in shares):
        raise ValueError(f"client {other} sent invalid shares")
    return shares


def _nonce(sender: int, receiver: int) -> bytes:
    """Return the nonce of a direction; a pair's key encrypts one message in each."""
    return bytes(11) + bytes([sender > receiver])


def _meant_for(sender: int, receiver: int, session: bytes) -> bytes:
    return joined(session, id_bytes(sender), id_bytes(receiver))
