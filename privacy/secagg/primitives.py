"""The protocol's cryptographic primitives, each with one use; all of them from `cryptography`.

Key agreement X25519 (RFC 7748), key derivation HKDF-SHA256 (RFC 5869), encryption AES-256-GCM (NIST SP 800-38D),
signatures Ed25519 (RFC 8032), masks AES-256-CTR (NIST SP 800-38A, in `ring`). Domain separation: all hashed or
derived data names its purpose, and its parts are length-prefixed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY = 32  # bytes of a key, private or public, of a seed, and of a hash
SIGNATURE = 64  # bytes
TAG = 16  # bytes that encryption adds
PROTOCOL = b"fedsim-secagg/1"

Entropy = Callable[[int], bytes]  # returns a number of random bytes; `os.urandom` except in tests


def joined(*parts: bytes) -> bytes:
    """Return parts as one, each prefixed with its length, so that different lists differ."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def digest(purpose: bytes, *parts: bytes) -> bytes:
    """Return the SHA-256 (32 bytes) of parts, for one purpose."""
    return hashlib.sha256(joined(PROTOCOL, purpose, *parts)).digest()


def derive(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """Derive a key of 32 bytes from a secret one, for one purpose."""
    return HKDF(SHA256(), KEY, salt=None, info=joined(PROTOCOL, purpose, *parts)).derive(key)


class AgreementKey:
    """A private X25519 key, made from any 32 bytes; `public` (32 bytes) is for others' `agree`."""

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        """Return the 32 bytes shared with the owner of another key.

        Raises `ValueError` if that key is invalid or of small order, so that the secret would be public.
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise ValueError("a public key is invalid, or of small order") from None


class SigningKey:
    """A private Ed25519 key, made from 32 bytes; `public` (32 bytes) checks what it signs."""

    def __init__(self, private: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the signature (64 bytes) of a message."""
        return self._key.sign(message)


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether a signature of a message is by the owner of a public key."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def seal(key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
    """Encrypt by AES-256-GCM; use a nonce (12 bytes) once with a key. The result is 16 bytes longer."""
    return AESGCM(key).encrypt(nonce, plain, associated)


def unseal(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Decrypt the result of `seal`; raises `ValueError` if it was altered, or any other argument differs."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise ValueError("a ciphertext was altered, or is not meant for this place") from None
