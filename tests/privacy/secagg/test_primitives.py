"""The primitives against their standards' test vectors."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedsim.privacy.secagg.primitives import (
    PROTOCOL,
    AgreementKey,
    SigningKey,
    derive,
    digest,
    is_signed,
    joined,
    seal,
    unseal,
)


def h(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def test_key_agreement_rfc_7748_section_6_1():
    alice = AgreementKey(h("77076d0a7318a57d3c16c17251b26645 df4c2f87ebc0992ab177fba51db92c2a"))
    bob = AgreementKey(h("5dab087e624a8a4b79e17f8b83800ee6 6f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert alice.public == h("8520f0098930a754748b7ddcb43ef75a 0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert bob.public == h("de9edb7d7b7dc1b4d35b61c2ece43537 3f8343c85b78674dadfc7e146f882b4f")
    shared = h("4a5d9d5ba4ce2de1728e3bf480350f25 e07e21c947d19e3376f09b3c1e161742")
    assert alice.agree(bob.public) == bob.agree(alice.public) == shared


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), b"\2" * 31])
def test_a_key_with_a_known_secret_is_refused(public):
    with pytest.raises(ValueError, match="a public key is invalid"):
        AgreementKey(b"\5" * 32).agree(public)


def test_key_derivation_rfc_5869_is_what_derive_uses():
    """RFC 5869, A.3: no salt, no info; then that `derive` is HKDF-SHA256 with our info."""
    material = b"\x0b" * 22
    okm = h("8da4e775a563c18f715f802a063c5a31 b8a11f5c5ee1879ec3454e5f3c738d2d 9d201395faa4b61a96c8")
    assert HKDF(SHA256(), 42, salt=None, info=b"").derive(material) == okm
    info = joined(PROTOCOL, b"purpose", b"a", b"b")
    assert derive(material, b"purpose", b"a", b"b") == HKDF(SHA256(), 32, None, info).derive(material)


def test_signatures_rfc_8032_section_7_1_test_3():
    key = SigningKey(h("c5aa8df43f9f837bedb7442f31dcb7b1 66d38535076f094b85ce3a2e0b4458f7"))
    assert key.public == h("fc51cd8e6218a1a38da47ed00230f058 0816ed13ba3303ac5deb911548908025")
    signature = h(
        "6291d657deec24024827e69c3abe01a3 0ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc659 4a7c15e9716ed28dc027beceea1ec40a"
    )
    assert key.sign(h("af82")) == signature
    assert is_signed(key.public, signature, h("af82"))
    assert not is_signed(key.public, signature, h("af83"))
    assert not is_signed(key.public, signature[:-1], h("af82"))
    assert not is_signed(b"short", signature, h("af82"))


def test_encryption_sp_800_38d_test_case_16():
    key = h("feffe9928665731c6d6a8f9467308308") * 2
    nonce = h("cafebabefacedbaddecaf888")
    plain = h(
        "d9313225f88406e5a55909c5aff5269a 86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525 b16aedf5aa0de657ba637b39"
    )
    associated = h("feedfacedeadbeeffeedfacedeadbeef abaddad2")
    sealed = h(
        "522dc1f099567d07f47f37a32a84427d 643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838 c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    assert seal(key, nonce, plain, associated) == sealed == AESGCM(key).encrypt(nonce, plain, associated)
    assert unseal(key, nonce, sealed, associated) == plain
    for altered in (sealed[:-1] + b"\0", bytes([sealed[0] ^ 1]) + sealed[1:], sealed[:10]):
        with pytest.raises(ValueError, match="a ciphertext was altered"):
            unseal(key, nonce, altered, associated)
    with pytest.raises(ValueError, match="a ciphertext was altered"):
        unseal(key, nonce, sealed, associated + b"x")


def test_parts_can_not_be_moved_from_one_to_the_next():
    assert digest(b"p", b"ab", b"c") != digest(b"p", b"a", b"bc") != digest(b"p", b"abc")
    assert derive(b"k" * 32, b"p", b"ab", b"c") != derive(b"k" * 32, b"p", b"a", b"bc")
    assert digest(b"p", b"a") == hashlib.sha256(joined(PROTOCOL, b"p", b"a")).digest()
