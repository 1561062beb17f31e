"""The key pairs by which Flower's nodes authenticate: ECDSA over P-384."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes


def make_node_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key."""
    private, _ = generate_key_pairs()
    return private


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the PEM encoding of a key's public half, by which Flower's database knows a node."""
    return public_key_to_bytes(key.public_key())
