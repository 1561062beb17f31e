"""Making key folders; `fedsim.deployment.keys` documents their contents."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedsim.deployment.certificates import make_authority, make_server_certificate, subject_name
from fedsim.deployment.keys import (
    CA,
    CA_KEY,
    IDENTITY_KEY,
    NODE_KEY,
    NODES,
    OPERATOR_KEY,
    OPERATOR_PUBLIC,
    REGISTRY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    load_nodes,
    load_registry,
    load_root,
)
from fedsim.errors import Refused
from fedsim.results.files import sync_folder, write_whole

PEM = serialization.Encoding.PEM


def make_keys(folder: Path, clients: int, hosts: Sequence[str], valid: timedelta) -> None:
    """Make the key folders of a server, its operator and its clients.

    Args:
        folder: Must not exist; it is made whole or not at all.
        clients: Number of clients.
        hosts: Names and addresses at which clients reach the server, beside those of its own machine.
        valid: How long the certificates are valid.

    Raises:
        Refused: The folder exists or can't be written, or a host is neither a name nor an address.
    """
    if folder.exists():
        raise Refused(f"DIR {str(folder)!r}: exists; a new folder is needed, or --add N for more clients")
    for host in hosts:
        check_host(host)
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


def check_host(host: str) -> None:
    """Check a host name or IP address; raises `Refused`."""
    try:
        subject_name(host)
    except ValueError as error:
        raise Refused(f"--host {host!r}: {error}") from None


def _make_all(draft: Path, clients: int, hosts: Sequence[str], valid: timedelta) -> None:
    authority_key, authority = make_authority(valid)
    server_key, certificate = make_server_certificate(authority_key, authority, hosts, valid)
    operator = Ed25519PrivateKey.generate()
    ca = authority.public_bytes(PEM)
    _folder(draft)
    _folder(draft / "server")
    _folder(draft / "operator")
    _private(draft / CA_KEY, _private_pem(authority_key))
    (draft / "server" / CA).write_bytes(ca)
    (draft / "server" / SERVER_CERTIFICATE).write_bytes(certificate.public_bytes(PEM))
    _private(draft / "server" / SERVER_KEY, _private_pem(server_key))
    (draft / "server" / OPERATOR_PUBLIC).write_bytes(_public_pem(operator.public_key()))
    (draft / "operator" / CA).write_bytes(ca)
    _private(draft / "operator" / OPERATOR_KEY, _private_pem(operator))
    new = [_make_client(draft / f"client-{client}", ca) for client in range(clients)]
    _write_public_keys(draft, {}, {}, new)


def add_clients(folder: Path, more: int) -> range:
    """Make the key folders of more clients, and add their public keys to the lists of the server and of all clients.

    The lists are rewritten last, the server's list at the very end: a kill before that leaves unregistered folders, which
    the next call replaces.

    Returns:
        The new clients' numbers.

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
    _private(folder / NODE_KEY, _private_pem(node_key))
    _private(folder / IDENTITY_KEY, identity.private_bytes_raw().hex().encode() + b"\n")
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


def _private(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(file)


def _private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
