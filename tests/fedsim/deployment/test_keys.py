"""Key folders: what is in them, who may read them, and what is refused."""

import json
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.deployment.keys import (
    CA,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    ClientKeys,
    OperatorKeys,
    ServerKeys,
    add_clients,
    make_keys,
)
from fedsim.errors import Refused

YEAR = timedelta(days=365)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", 2, ["fl.example.org", "192.0.2.7"], YEAR)
    return tmp_path / "keys"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_each_machine_has_a_folder_with_what_it_needs(folder: Path) -> None:
    client = {"ca.pem", "node.key", "identity.key", "registry.json"}
    server = {"ca.pem", "server.pem", "server.key", "operator.pub", "nodes.json", "registry.json"}
    assert set(contents(folder)) == {"ca.key", "operator/ca.pem", "operator/operator.key"} | {
        f"server/{name}" for name in server
    } | {f"client-{i}/{name}" for i in (0, 1) for name in client}


def test_private_files_and_folders_are_their_owners(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        private = path.suffix == ".key" or path.is_dir()
        assert not private or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_parts_fit(folder: Path) -> None:
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    server, operator = ServerKeys.load(folder / "server"), OperatorKeys.load(folder / "operator")
    assert operator.key.public_key() == server.operator
    for number in (0, 1):
        client = ClientKeys.load(folder / f"client-{number}")
        assert client.number == number
        assert client.root_certificates == operator.root_certificates == (server.folder / CA).read_bytes()
        assert public_key_to_bytes(client.node_key.public_key()) == server.nodes[number]
        signed = Ed25519PrivateKey.from_private_bytes(client.identity).public_key().public_bytes_raw()
        assert client.registry == server.registry
        assert client.registry[number] == signed
    chain = server.folder / SERVER_CERTIFICATE, server.folder / SERVER_KEY
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*chain)


def test_the_certificate_names_the_hosts_and_this_machine(folder: Path) -> None:
    certificate = x509.load_pem_x509_certificate((folder / "server" / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "127.0.0.1", "::1"]


def test_more_clients_are_added_and_all_else_stays(folder: Path) -> None:
    before = contents(folder)
    (folder / "client-2").mkdir()  # what a kill in an earlier --add leaves
    assert add_clients(folder, 2) == range(2, 4)
    after = contents(folder)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {
        "server/nodes.json",
        "server/registry.json",
        "client-0/registry.json",
        "client-1/registry.json",
    }
    server = ServerKeys.load(folder / "server")
    assert [ClientKeys.load(folder / f"client-{c}").number for c in range(4)] == [0, 1, 2, 3]
    assert list(server.nodes) == list(server.registry) == [0, 1, 2, 3]
    assert json.loads(before["server/nodes.json"]).items() <= json.loads(after["server/nodes.json"]).items()


def test_an_existing_folder_is_refused_and_left_alone(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(Refused, match="exists; a new folder is needed, or --add N"):
        make_keys(folder, 3, [], YEAR)
    assert contents(folder) == before


@pytest.mark.parametrize("host", ["https://a", "a:9091", "", "a b", "1.2.3.999", "-a"])
def test_a_bad_host_is_refused_and_nothing_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(Refused, match=r"--host .*is neither a host name nor an IP address"):
        make_keys(tmp_path / "k", 1, [host], YEAR)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("ca.pem", b"x", "is not a certificate"),
        ("server.key", b"x", "is not an EC private key"),
        ("operator.pub", b"x", "is not an Ed25519 public key"),
        ("nodes.json", b"[", "is not JSON"),
        ("nodes.json", b'{"1": ""}', "a key for each client"),
        ("nodes.json", b'{"0": 3}', "must hold text"),
        ("nodes.json", b'{"0": "?"}', "must hold EC public keys"),
        ("registry.json", b'{"0": "00"}', "64 hex digits"),
        ("server.pem", None, "No such file"),
    ],
)
def test_a_spoilt_file_is_named(folder: Path, name: str, content: bytes | None, reason: str) -> None:
    path = folder / "server" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(Refused, match=f"{path}.*{reason}"):
        ServerKeys.load(folder / "server")


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", 1, [], timedelta(seconds=-1))
    with pytest.raises(Refused, match=r"ca\.pem.*has expired on"):
        ServerKeys.load(tmp_path / "keys" / "server")


def test_a_certificate_of_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other", 1, [], YEAR)
    (folder / "server" / "ca.pem").write_bytes((tmp_path / "other" / "server" / "ca.pem").read_bytes())
    with pytest.raises(Refused, match=r"server\.pem.*not signed by the certificate authority"):
        ServerKeys.load(folder / "server")


def test_a_client_that_the_registry_does_not_know_is_refused(folder: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other", 1, [], YEAR)
    (folder / "client-0" / "identity.key").write_bytes(
        (tmp_path / "other" / "client-0" / "identity.key").read_bytes()
    )
    with pytest.raises(Refused, match=r"registry\.json.*0 times"):
        ClientKeys.load(folder / "client-0")


def test_the_command_makes_adds_and_refuses(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["keys", "k", "--clients", "1", "--host", "fl.example.org"])
    assert (made.exit_code, made.output) == (
        0,
        "k: server, operator, client-0 to client-0; good for 365 days\n",
    )
    added = runner.invoke(app, ["keys", "k", "--add", "2"])
    assert (added.exit_code, added.output) == (0, "k: added client-1 to client-2\n")
    for wrong in (
        ["k", "--clients", "1"],
        ["new"],
        ["k", "--add", "1", "--clients", "1"],
        ["new", "--add", "1"],
    ):
        refused = runner.invoke(app, ["keys", *wrong])
        assert refused.exit_code == 2
        assert refused.output.startswith("fedsim: ")
        assert len(refused.output.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k"]


KEY_FILES = [
    ("server/server.key", ServerKeys),
    ("operator/operator.key", OperatorKeys),
    ("client-0/node.key", ClientKeys),
    ("client-0/identity.key", ClientKeys),
]


@pytest.mark.parametrize(("name", "kind"), KEY_FILES)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o610])
def test_private_keys_that_others_may_read_are_refused(
    folder: Path, name: str, kind: type[ServerKeys | OperatorKeys | ClientKeys], mode: int
) -> None:
    path = folder / name
    path.chmod(mode)
    with pytest.raises(Refused) as refused:
        kind.load(path.parent)
    said = f"--keys: '{path}': may be read or written by others (mode {mode:04o}); chmod 600 {path}"
    assert str(refused.value) == said
    path.chmod(0o400)
    kind.load(path.parent)
