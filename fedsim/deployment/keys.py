"""Key folders, one for each machine. Each holds the keys that its machine needs, and no others.

    DIR/ca.key      signs the server's certificate; is copied to no machine
    DIR/server/     ca.pem server.pem server.key operator.pub nodes.json registry.json
    DIR/operator/   ca.pem operator.key
    DIR/client-0/   ca.pem node.key identity.key registry.json

`nodes.json` holds the public keys of the clients' `node.key`, by which Flower authenticates its nodes; `registry.json` those
of their `identity.key` (Ed25519, hex), which sign their messages of secure aggregation.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedsim.deployment.certificates import check_certificate, check_issued
from fedsim.errors import Refused

CA, CA_KEY = "ca.pem", "ca.key"
SERVER_CERTIFICATE, SERVER_KEY = "server.pem", "server.key"
OPERATOR_KEY, OPERATOR_PUBLIC = "operator.key", "operator.pub"
NODE_KEY, IDENTITY_KEY = "node.key", "identity.key"
NODES, REGISTRY = "nodes.json", "registry.json"

T = TypeVar("T")


@dataclass(frozen=True)
class ServerKeys:
    """The keys of a server.

    Attributes:
        folder: The folder, absolute.
        operator: The operator's public key.
        nodes: The public node key (PEM) of each client.
        registry: The public identity key (32 bytes) of each client.
    """

    folder: Path
    operator: Ed25519PublicKey
    nodes: dict[int, bytes]
    registry: dict[int, bytes]

    @property
    def authority(self) -> Path:
        """The file of the authority's certificate."""
        return self.folder / CA

    @property
    def certificate(self) -> Path:
        """The file of the server's certificate."""
        return self.folder / SERVER_CERTIFICATE

    @property
    def private_key(self) -> Path:
        """The file of the server's private key."""
        return self.folder / SERVER_KEY

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check a server's folder; raises `Refused`, which names the file."""
        authority = _read(folder / CA, _valid_certificate)
        certificate = _read(folder / SERVER_CERTIFICATE, _valid_certificate)
        key = _read(folder / SERVER_KEY, _elliptic_private)
        with _about(folder / SERVER_CERTIFICATE):
            check_issued(certificate, authority)
            if certificate.public_key() != key.public_key():
                raise ValueError("is not the certificate of server.key")
        operator = _read(folder / OPERATOR_PUBLIC, _operator_public)
        registry = load_registry(folder)
        return cls(folder.absolute(), operator, load_nodes(folder), registry)


def load_nodes(folder: Path) -> dict[int, bytes]:
    """Read the clients' public node keys (PEM) from a server's folder; raises `Refused`."""
    return _read(folder / NODES, _nodes)


def load_registry(folder: Path) -> dict[int, bytes]:
    """Read the clients' public identity keys (32 bytes); raises `Refused`."""
    return _read(folder / REGISTRY, _registry)


def load_root(folder: Path) -> bytes:
    """Read the authority's certificate (PEM); raises `Refused` where it isn't valid today."""
    _read(folder / CA, _valid_certificate)
    return (folder / CA).read_bytes()


@dataclass(frozen=True)
class OperatorKeys:
    """The keys of an operator.

    Attributes:
        folder: The folder, absolute.
        root_certificates: The authority's certificate (PEM).
        key: Signs the operator's requests.
    """

    folder: Path
    root_certificates: bytes
    key: Ed25519PrivateKey

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check an operator's folder; raises `Refused`, which names the file."""
        return cls(folder.absolute(), load_root(folder), _read(folder / OPERATOR_KEY, _operator_private))


@dataclass(frozen=True)
class ClientKeys:
    """The keys of a client.

    Attributes:
        folder: The folder, absolute.
        root_certificates: The authority's certificate (PEM).
        node_key: Signs the client's requests to the server.
        identity: Private key (32 bytes) that signs the client's messages of secure aggregation.
        registry: The public identity key (32 bytes) of each client.
        number: The client's own number in the registry.
    """

    folder: Path
    root_certificates: bytes
    node_key: ec.EllipticCurvePrivateKey
    identity: bytes
    registry: dict[int, bytes]
    number: int

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check a client's folder; raises `Refused`, which names the file."""
        root = load_root(folder)
        node_key = _read(folder / NODE_KEY, _elliptic_private)
        identity = _read(folder / IDENTITY_KEY, _identity)
        registry = load_registry(folder)
        public = Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
        places = [client for client, key in registry.items() if key == public]
        with _about(folder / REGISTRY):
            if len(places) != 1:
                raise ValueError(f"has the key of {IDENTITY_KEY} {len(places)} times; once is needed")
        return cls(folder.absolute(), root, node_key, identity, registry, places[0])


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    with _about(path):
        return parse(path.read_bytes())


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Turn an error of a file into `Refused`, one line that names the file."""
    try:
        yield
    except OSError as error:
        raise Refused(f"--keys: {str(path)!r}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise Refused(f"--keys: {str(path)!r}: {error}") from None


def _valid_certificate(content: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError:
        raise ValueError("is not a certificate (PEM)") from None
    check_certificate(certificate)
    return certificate


def _elliptic_private(content: bytes) -> ec.EllipticCurvePrivateKey:
    key = _parsed(_load_private, content)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("is not an EC private key (PEM)")
    return key


def _operator_private(content: bytes) -> Ed25519PrivateKey:
    key = _parsed(_load_private, content)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("is not an Ed25519 private key (PEM)")
    return key


def _operator_public(content: bytes) -> Ed25519PublicKey:
    key = _parsed(serialization.load_pem_public_key, content)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("is not an Ed25519 public key (PEM)")
    return key


def _load_private(content: bytes) -> object:
    return serialization.load_pem_private_key(content, password=None)


def _parsed(load: Callable[[bytes], object], content: bytes) -> object:
    try:
        return load(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _identity(content: bytes) -> bytes:
    return _hex(content.decode("ascii", "replace").strip())


def _registry(content: bytes) -> dict[int, bytes]:
    return {client: _hex(text) for client, text in _by_client(content).items()}


def _nodes(content: bytes) -> dict[int, bytes]:
    return {client: _node_public(text) for client, text in _by_client(content).items()}


def _node_public(text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error:
        content = b""
    key = _parsed(serialization.load_pem_public_key, content)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("must hold EC public keys (PEM, as base64)")
    return content


def _hex(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError("does not hold 32 bytes as 64 hex digits")
    return key


def _by_client(content: bytes) -> dict[int, str]:
    """Return `{"0": text, "1": text, ...}` by number."""
    try:
        tree = json.loads(content)
    except ValueError:
        raise ValueError("is not JSON") from None
    if not isinstance(tree, dict) or set(tree) != {str(client) for client in range(len(tree))}:
        raise ValueError('must hold {"0": ..., "1": ...}, a key for each client')
    if not all(isinstance(text, str) for text in tree.values()):
        raise ValueError("must hold text for each client")
    return {int(client): text for client, text in tree.items()}
