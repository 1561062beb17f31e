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
import json
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedsim.deployment import certificates
from fedsim.errors import Refused
from fedsim.results.files import sync_folder, write_whole

CA, CA_KEY = "ca.pem", "ca.key"
SERVER_CERTIFICATE, SERVER_KEY = "server.pem", "server.key"
OPERATOR_KEY, OPERATOR_PUBLIC = "operator.key", "operator.pub"
NODE_KEY, IDENTITY_KEY = "node.key", "identity.key"
NODES, REGISTRY = "nodes.json", "registry.json"

T = TypeVar("T")


@dataclass(frozen=True)
class ServerKeys:
    """The keys of a server."""

    folder: Path  # absolute
    operator: Ed25519PublicKey
    nodes: dict[int, bytes]  # the public node key (PEM) of each client
    registry: dict[int, bytes]  # the public identity key (32 bytes) of each client

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check a server's folder; raises `Refused`, which names the file."""
        authority = _read(folder / CA, _valid_certificate)
        certificate = _read(folder / SERVER_CERTIFICATE, _valid_certificate)
        key = _read_private(folder / SERVER_KEY, _elliptic_private)
        with _about(folder / SERVER_CERTIFICATE):
            certificates.check_issued(certificate, authority)
            if certificate.public_key() != key.public_key():
                raise ValueError("is not the certificate of server.key")
        operator = _read(folder / OPERATOR_PUBLIC, _operator_public)
        registry = load_registry(folder)
        return cls(folder.absolute(), operator, load_nodes(folder), registry)


def load_nodes(folder: Path) -> dict[int, bytes]:
    """Read the clients' public node keys (PEM) from a server's folder; raises `Refused`."""
    return _read(folder / NODES, lambda content: _by_client(content, _node_public))


def load_registry(folder: Path) -> dict[int, bytes]:
    """Read the clients' public identity keys (32 bytes); raises `Refused`."""
    return _read(folder / REGISTRY, lambda content: _by_client(content, _hex))


def load_root(folder: Path) -> bytes:
    """Read the authority's certificate (PEM); raises `Refused` where it isn't valid today."""
    _read(folder / CA, _valid_certificate)
    return (folder / CA).read_bytes()


@dataclass(frozen=True)
class OperatorKeys:
    """The keys of an operator."""

    folder: Path  # absolute
    root_certificates: bytes  # the authority's certificate (PEM)
    key: Ed25519PrivateKey  # signs the operator's requests

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check an operator's folder; raises `Refused`, which names the file."""
        return cls(
            folder.absolute(), load_root(folder), _read_private(folder / OPERATOR_KEY, _operator_private)
        )


@dataclass(frozen=True)
class ClientKeys:
    """The keys of a client."""

    folder: Path  # absolute
    root_certificates: bytes  # the authority's certificate (PEM)
    node_key: ec.EllipticCurvePrivateKey  # signs the client's requests to the server
    identity: bytes  # private key (32 bytes) that signs the client's messages of secure aggregation
    registry: dict[int, bytes]  # the public identity key (32 bytes) of each client
    number: int  # the client's own, in the registry

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check a client's folder; raises `Refused`, which names the file."""
        root = load_root(folder)
        node_key = _read_private(folder / NODE_KEY, _elliptic_private)
        identity = _read_private(folder / IDENTITY_KEY, _identity)
        registry = load_registry(folder)
        public = Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
        places = [client for client, key in registry.items() if key == public]
        with _about(folder / REGISTRY):
            if len(places) != 1:
                raise ValueError(f"has the key of {IDENTITY_KEY} {len(places)} times; once is needed")
        return cls(folder.absolute(), root, node_key, identity, registry, places[0])


def private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """Return a private key as PEM (PKCS 8), not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    with _about(path):
        return parse(path.read_bytes())


def _read_private(path: Path, parse: Callable[[bytes], T]) -> T:
    """Read a private key, which nobody but the file's owner may read or write."""
    with _about(path):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ValueError(
                f"may be read or written by others (mode {mode:04o}); chmod 600 {shlex.quote(str(path))}"
            )
    return _read(path, parse)


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
    certificates.check_certificate(certificate)
    return certificate


def _private(content: bytes) -> object:
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        return serialization.load_pem_private_key(content, password=None)
    return None


def _public(content: bytes) -> object:
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        return serialization.load_pem_public_key(content)
    return None


def _elliptic_private(content: bytes) -> ec.EllipticCurvePrivateKey:
    if isinstance(key := _private(content), ec.EllipticCurvePrivateKey):
        return key
    raise ValueError("is not an EC private key (PEM)")


def _operator_private(content: bytes) -> Ed25519PrivateKey:
    if isinstance(key := _private(content), Ed25519PrivateKey):
        return key
    raise ValueError("is not an Ed25519 private key (PEM)")


def _operator_public(content: bytes) -> Ed25519PublicKey:
    if isinstance(key := _public(content), Ed25519PublicKey):
        return key
    raise ValueError("is not an Ed25519 public key (PEM)")


def _identity(content: bytes) -> bytes:
    return _hex(content.decode("ascii", "replace").strip())


def _node_public(text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        content = b""
    if not isinstance(_public(content), ec.EllipticCurvePublicKey):
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


def _by_client(content: bytes, parse: Callable[[str], bytes]) -> dict[int, bytes]:
    """Return the keys in `{"0": text, "1": text, ...}` by number."""
    try:
        tree = json.loads(content)
    except ValueError:
        raise ValueError("is not JSON") from None
    if not isinstance(tree, dict) or set(tree) != {str(client) for client in range(len(tree))}:
        raise ValueError('must hold {"0": ..., "1": ...}, a key for each client')
    if not all(isinstance(text, str) for text in tree.values()):
        raise ValueError("must hold text for each client")
    return {int(client): parse(text) for client, text in tree.items()}


# --- making them ------------------------------------------------------------------------------------------


def make_keys(folder: Path, clients: int, hosts: Sequence[str], valid: timedelta) -> None:
    """Make the key folders of a server, its operator and its clients, whole or not at all.

    Clients reach the server at its hosts, which are names and addresses, beside those of its own machine.

    Raises:
        Refused: The folder exists or can't be written, or a host is neither a name nor an address.
    """
    if folder.exists():
        raise Refused(f"DIR {str(folder)!r}: exists; a new folder is needed, or --add N for more clients")
    for host in hosts:
        try:
            certificates.subject_name(host)
        except ValueError as error:
            raise Refused(f"--host {host!r}: {error}") from None
    draft = folder.absolute().with_name(f".{folder.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)  # a kill left it
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        _make_all(draft, clients, hosts, valid)
        draft.rename(folder)
        sync_folder(folder.absolute().parent)
    except OSError as error:
        raise Refused(f"DIR {str(folder)!r}: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _make_all(draft: Path, clients: int, hosts: Sequence[str], valid: timedelta) -> None:
    authority_key, authority = certificates.make_authority(valid)
    server_key, certificate = certificates.make_server_certificate(authority_key, authority, hosts, valid)
    operator = Ed25519PrivateKey.generate()
    operator_public = operator.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ca = authority.public_bytes(Encoding.PEM)
    for folder in (draft, draft / "server", draft / "operator"):
        _folder(folder)
    write_whole(draft / CA_KEY, private_pem(authority_key), private=True)
    (draft / "server" / CA).write_bytes(ca)
    (draft / "server" / SERVER_CERTIFICATE).write_bytes(certificate.public_bytes(Encoding.PEM))
    write_whole(draft / "server" / SERVER_KEY, private_pem(server_key), private=True)
    (draft / "server" / OPERATOR_PUBLIC).write_bytes(operator_public)
    (draft / "operator" / CA).write_bytes(ca)
    write_whole(draft / "operator" / OPERATOR_KEY, private_pem(operator), private=True)
    new = [_make_client(draft / f"client-{client}", ca) for client in range(clients)]
    _write_public_keys(draft, {}, {}, new)


def add_clients(folder: Path, more: int) -> range:
    """Make the key folders of more clients, and add their public keys to all lists; return the new clients' numbers.

    The lists are rewritten last, the server's list at the very end: a kill before that leaves unregistered folders, which
    the next call replaces.

    Raises:
        Refused: The folder is not a complete folder of `make_keys`, or can't be written.
    """
    nodes, registry = load_nodes(folder / "server"), load_registry(folder / "server")
    ca = load_root(folder / "server")
    missing = [c for c in nodes if not (folder / f"client-{c}").is_dir()]
    if missing or len(nodes) != len(registry):
        raise Refused(f"DIR {str(folder)!r}: client-{missing[0] if missing else len(nodes)} is missing")
    numbers = range(len(nodes), len(nodes) + more)
    try:
        new = []
        for client in numbers:
            path, draft = folder / f"client-{client}", folder / f".client-{client}.draft"
            shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(draft, ignore_errors=True)
            new.append(_make_client(draft, ca))
            draft.rename(path)
        _write_public_keys(folder, nodes, registry, new)
    except OSError as error:
        raise Refused(f"DIR {str(folder)!r}: {error.strerror}") from None
    return numbers


def _make_client(folder: Path, ca: bytes) -> tuple[bytes, bytes]:
    """Make a client's folder without its registry; return its public keys: node key (PEM) and identity key (32 bytes)."""
    from fedsim.flower.keys import make_node_key, public_pem

    node_key = make_node_key()
    identity = Ed25519PrivateKey.generate()
    _folder(folder)
    (folder / CA).write_bytes(ca)
    write_whole(folder / NODE_KEY, private_pem(node_key), private=True)
    write_whole(folder / IDENTITY_KEY, identity.private_bytes_raw().hex().encode() + b"\n", private=True)
    return public_pem(node_key), identity.public_key().public_bytes_raw()


def _write_public_keys(
    folder: Path, nodes: dict[int, bytes], registry: dict[int, bytes], new: Sequence[tuple[bytes, bytes]]
) -> None:
    """Write the lists of all folders, with the keys (node, identity) of new clients appended."""
    all_nodes = [*nodes.values(), *(node for node, _ in new)]
    all_identities = [*registry.values(), *(identity for _, identity in new)]
    listed = _as_json([identity.hex() for identity in all_identities])
    for client in range(len(all_nodes)):
        write_whole(folder / f"client-{client}" / REGISTRY, listed)
    write_whole(folder / "server" / REGISTRY, listed)
    write_whole(folder / "server" / NODES, _as_json([base64.b64encode(node).decode() for node in all_nodes]))


def _as_json(texts: Sequence[str]) -> bytes:
    return json.dumps(dict(enumerate(texts)), indent=2).encode() + b"\n"


def _folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o700)
