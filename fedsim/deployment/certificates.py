"""X.509 certificates: a private certificate authority, and the certificate of one server.

Keys are ECDSA over P-256. Only the server has a certificate: clients and the operator authenticate by keys of their own.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
CLOCKS_DIFFER = timedelta(hours=1)  # so that a new certificate is valid on a machine with a slow clock


def make_authority(valid: timedelta) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make a certificate authority that signs server certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("fedsim certificate authority")
    return key, _builder(name, name, key, key, valid, is_authority=True).sign(key, hashes.SHA256())


def make_server_certificate(
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    hosts: Sequence[str],
    valid: timedelta,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make a server's key and certificate, for its hosts and for `LOCAL_NAMES`.

    With a negative `valid` it has expired. Raises `ValueError` where a host is neither a name nor an address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = [subject_name(host) for host in dict.fromkeys([*hosts, *LOCAL_NAMES])]
    subject = _name("fedsim server")
    certificate = (
        _builder(subject, authority.subject, key, authority_key, valid, is_authority=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return key, certificate


def subject_name(host: str) -> x509.GeneralName:
    """Return a host as a certificate's subject alternative name; raises `ValueError` for an invalid name or address."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        labels = host.split(".")
        if len(host) > 253 or not all(map(_is_label, labels)) or labels[-1].isdigit():
            raise ValueError("is neither a host name nor an IP address") from None
        return x509.DNSName(host)


def _is_label(label: str) -> bool:
    plain = label.replace("-", "a").replace("_", "a")
    return len(label) <= 63 and plain.isascii() and plain.isalnum() and label.strip("-") == label


def check_certificate(certificate: x509.Certificate) -> None:
    """Raise `ValueError` where a certificate isn't valid yet, or has expired."""
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        raise ValueError(f"has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if certificate.not_valid_before_utc > now:
        raise ValueError(f"is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on")


def check_issued(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """Raise `ValueError` where an authority has not signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise ValueError("is not signed by the certificate authority in ca.pem") from None


def trusting(authority: bytes | None) -> ssl.SSLContext | bool:
    """Return the TLS context that trusts the certificates of an authority (PEM) alone; False: no TLS."""
    if authority is None:
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    valid: timedelta,
    is_authority: bool,
) -> x509.CertificateBuilder:
    now, public, issuer_public = datetime.now(UTC), key.public_key(), issuer_key.public_key()
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid) - CLOCKS_DIFFER)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
        .add_extension(usage, critical=True)
    )
