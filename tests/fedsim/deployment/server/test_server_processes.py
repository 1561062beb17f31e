"""A server's processes: none survives the server, and its state survives a restart."""

import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

from fedsim.deployment.bundle import installed_code, make_bundle
from fedsim.deployment.keys import ClientKeys, OperatorKeys, make_keys
from fedsim.deployment.operator.remote import Remote
from tests.conftest import experiment
from tests.support.deployment.servers import (
    COMMAND,
    LONGEST,
    Server,
    all_gone,
    close_clients,
    control,
    environment,
    fleet,
    serving,
    started_for,
)
from tests.support.waiting import wait_for

YEAR = timedelta(days=365)
STUBBORN = experiment("server.strategy=tests.support.stubborn:asleep")


@pytest.fixture(autouse=True)
def _clients_are_closed() -> Any:
    yield
    close_clients()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", 1, [], YEAR)
    return tmp_path / "keys"


def refused(*options: str) -> str:
    """Run a server that refuses; returns what it says."""
    result = subprocess.run(
        [*COMMAND, "server", *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    return result.stderr


def only_stubborn(folder: Path) -> tuple[str, str]:
    """Return the options of a server that runs the stubborn experiment."""
    file = folder.with_name("stubborn.toml")
    file.write_text(STUBBORN.to_toml())
    return "--only", str(file)


def start_stubborn_run(server: Server, folder: Path) -> int:
    """Start a run whose ServerApp ignores all signals that can be ignored; returns once it does."""
    config = {**STUBBORN.to_run_config(), "run-name": "stubborn", "code": installed_code()}
    with Remote.connect(server.address, folder / "operator") as remote:
        run_id = remote.start_run(make_bundle(), config).run_id
    wait_for(
        lambda: any(ignores_sigterm(pid) for pid in started_for(server.state)),
        LONGEST,
        0.1,
        said=lambda: run_status(server, folder, run_id),
    )
    return run_id


def ignores_sigterm(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def run_status(server: Server, folder: Path, run_id: int) -> tuple[str, str, str]:
    runs = control(server, OperatorKeys.load(folder / "operator")).ListRuns(ListRunsRequest()).run_dict
    status = runs[run_id].status
    return status.status, status.sub_status, status.details


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_and_a_run_that_was_going_on_has_failed(
    tmp_path: Path, folder: Path, number: signal.Signals
) -> None:
    state = tmp_path / "state"
    with serving(folder, state, *only_stubborn(folder)) as server:
        run_id = start_stubborn_run(server, folder)
        assert len(started_for(state)) == 3  # its keeper, SuperExec, the ServerApp
        server.process.send_signal(number)
        server.process.wait(LONGEST)
        assert server.process.returncode == (-number if number == signal.SIGKILL else 0)
        assert all_gone(state)
    with serving(folder, state) as server:
        status, sub_status, details = run_status(server, folder, run_id)
        assert (status, sub_status) == ("finished", "failed")
        assert "the server was restarted" in details or number != signal.SIGKILL
    assert all_gone(state)


@pytest.mark.slow
def test_a_client_goes_on_after_a_restart(tmp_path: Path, folder: Path) -> None:
    keys = ClientKeys.load(folder / "client-0")
    nodes = []
    for _ in range(2):
        with serving(folder, tmp_path / "state") as server:
            client = fleet(server, keys)
            if nodes:  # it needn't join again
                assert not client.PullMessages(PullMessagesRequest(node=Node(node_id=nodes[0]))).messages_list
            public_key = public_key_to_bytes(keys.node_key.public_key())
            nodes.append(
                client.ActivateNode(ActivateNodeRequest(public_key=public_key, heartbeat_interval=30))
            )
            nodes[-1] = nodes[-1].node_id
            close_clients()
        assert server.process.returncode == 0
    assert nodes[0] == nodes[1]
    assert all_gone(tmp_path / "state")


@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; p = subprocess.Popen([*sys.argv[1:], '--parent-pid', str(os.getpid())],"
        " stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True); input()"
    )
    command = [*COMMAND, "server", "--state", str(tmp_path / "s"), "--port", "0", "--insecure"]
    parent = subprocess.Popen(
        [COMMAND[0], "-c", code, *command],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert started_for(tmp_path / "s")
    finally:
        parent.kill()
        parent.communicate()
    assert all_gone(tmp_path / "s")
    wait_for(lambda: not is_running(server), LONGEST, 0.1)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_without_superexec_the_server_fails(tmp_path: Path) -> None:
    with serving(None, tmp_path / "state") as server:
        [keeper] = [
            pid
            for pid in started_for(tmp_path / "state")
            if b"fedsim.deployment.server.superexec" in cmdline(pid)
        ]
        os.kill(keeper, signal.SIGKILL)
        assert server.process.wait(LONGEST) == 1
        server.lines("fedsim: failed: Flower's SuperExec ended by itself")
    assert all_gone(tmp_path / "state")


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.slow
def test_an_insecure_server_says_so_and_takes_anybody_on_this_machine(tmp_path: Path) -> None:
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    private, public = generate_key_pairs()
    public_key = public_key_to_bytes(public)
    with serving(None, tmp_path / "state") as server:
        assert server.ready == f"fedsim server: ready on http://127.0.0.1:{server.port} (any client)\n"
        server.lines("--insecure: no TLS, no keys; anyone on this machine may use it")
        for repeated in range(2):  # and again, without having left
            client = FleetHttpClient.from_server_address(
                f"127.0.0.1:{server.port}", True, None, [NodeAuthHttpInterceptor(private, public)]
            )
            if not repeated:
                client.RegisterNode(RegisterNodeFleetRequest(public_key=public_key))
            node = client.ActivateNode(
                ActivateNodeRequest(public_key=public_key, heartbeat_interval=30)
            ).node_id
            client.close()
        seen = httpx.get(f"http://127.0.0.1:{server.port}/fedsim/server").json()
        assert seen["clients"] == [{"client": None, "node-id": node, "online": True}]


@pytest.mark.slow
def test_two_servers_do_not_share_a_state_or_a_port(tmp_path: Path, folder: Path) -> None:
    keys = str(folder / "server")
    with serving(folder, tmp_path / "state") as server:
        said = refused("--keys", keys, "--state", str(tmp_path / "state"), "--port", "0")
        assert (
            said
            == f"fedsim: --state '{tmp_path}/state': the server of process {server.process.pid} uses it\n"
        )
        options = ("--keys", keys, "--state", str(tmp_path / "other"), "--host", "127.0.0.1")
        said = refused(*options, "--port", str(server.port))
        assert said == f"fedsim: --host '127.0.0.1' --port {server.port}: Address already in use\n"


@pytest.mark.slow
def test_limits_on_clients_and_joins(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", 3, [], YEAR)
    clients = [ClientKeys.load(tmp_path / "keys" / f"client-{i}") for i in range(3)]

    def join(server: Server, keys: ClientKeys) -> int:
        public_key = public_key_to_bytes(keys.node_key.public_key())
        request = ActivateNodeRequest(public_key=public_key, heartbeat_interval=30)
        try:
            fleet(server, keys).ActivateNode(request)
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        return 200

    options = ("--max-nodes", "2", "--joins-per-minute", "3")
    with serving(tmp_path / "keys", tmp_path / "state", *options) as server:
        assert [join(server, keys) for keys in (*clients, clients[0], clients[0])] == [
            200,
            200,
            403,
            200,
            429,
        ]
        server.lines("refused client 2 (", "/v1/fleet/activate-node: 2 clients have joined, the most allowed")
        server.lines("refused client 0 (", "clients have joined 3 times within a minute, the most allowed")
        close_clients()


@pytest.mark.slow
def test_a_server_whose_certificate_expires_while_it_runs(tmp_path: Path) -> None:
    until = datetime.now(UTC) + timedelta(seconds=10)
    make_keys(tmp_path / "keys", 1, [], timedelta(seconds=10))
    keys = ClientKeys.load(tmp_path / "keys" / "client-0")
    with serving(tmp_path / "keys", tmp_path / "state") as server:
        time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 1.5)
        with pytest.raises(httpx.ConnectError, match="certificate has expired"):
            fleet(server, keys).PullMessages(PullMessagesRequest())
        server.lines("refused 127.0.0.1:", "connection: this server's certificate has expired")
        close_clients()
    said = refused("--keys", str(tmp_path / "keys" / "server"), "--state", str(tmp_path / "state"))
    assert "ca.pem': has expired on " in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--state", "s"], "--keys or --insecure: exactly one is needed"),
        (["--state", "s", "--insecure", "--keys", "k"], "--keys or --insecure: exactly one is needed"),
        (
            ["--state", "s", "--insecure", "--host", "0.0.0.0"],
            "--insecure is for 127.0.0.1, ::1 and localhost",
        ),
        (["--state", "s", "--keys", "k"], "k/ca.pem': No such file or directory"),
        (["--state", "file", "--insecure"], "file': File exists"),
        (["--state", "file/s", "--insecure"], "file/s': Not a directory"),
    ],
)
def test_bad_options_are_refused_in_a_line(tmp_path: Path, options: list[str], reason: str) -> None:
    from typer.testing import CliRunner

    from fedsim.cli import app

    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["server", *options])
    assert result.exit_code == 2
    assert reason in result.output.splitlines()[-1]
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_addresses_that_are_not_here_are_refused(tmp_path: Path, folder: Path) -> None:
    options = ("--keys", str(folder / "server"), "--state", str(tmp_path / "state"), "--port", "0")
    assert "--host '192.0.2.1' --port 0: " in refused(*options, "--host", "192.0.2.1")
    assert "--host 'no.such.host.invalid' --port 0: " in refused(*options, "--host", "no.such.host.invalid")


@pytest.mark.slow
def test_a_spoilt_database_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "superlink.db").write_bytes(b"no database" * 1000)
    said = refused("--keys", str(folder / "server"), "--state", str(tmp_path / "state"), "--port", "0")
    assert said.splitlines()[-1].startswith(f"fedsim: --state '{tmp_path}/state': superlink.db: ")
