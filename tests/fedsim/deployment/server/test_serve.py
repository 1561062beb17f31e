"""A server with TLS and keys: unauthorised requests are refused, with the reason in one line of the log."""

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    PushMessagesResponse,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedsim.deployment.credential import sign
from fedsim.deployment.keys import ClientKeys, OperatorKeys, add_clients, make_keys
from fedsim.flower.paths import GIVE
from fedsim.flower.wire_message import pack
from tests.support.deployment.servers import (
    Server,
    close_clients,
    control,
    fleet,
    operator,
    serving,
    trusting,
)

YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "keys"
    make_keys(folder, 3, [], YEAR)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, folder.with_name("state"), "--max-message", "1") as server:
        yield server


@pytest.fixture(autouse=True)
def _clients_are_closed() -> Iterator[None]:
    yield
    close_clients()


@pytest.fixture
def keys(folder: Path) -> ClientKeys:
    return ClientKeys.load(folder / "client-0")


@pytest.fixture
def master(folder: Path) -> OperatorKeys:
    return OperatorKeys.load(folder / "operator")


def join(keys: ClientKeys) -> ActivateNodeRequest:
    public_key = public_key_to_bytes(keys.node_key.public_key())
    return ActivateNodeRequest(public_key=public_key, heartbeat_interval=30)


def refusal(error: pytest.ExceptionInfo[httpx.HTTPStatusError]) -> tuple[int, str]:
    return error.value.response.status_code, error.value.response.json()["error"]


def test_it_reports_its_address_and_health(server: Server, keys: ClientKeys) -> None:
    assert server.ready == f"fedsim server: ready on https://127.0.0.1:{server.port} (3 clients registered)\n"
    verify = trusting(keys.root_certificates)
    for path in ("/health", "/health/ready"):
        answer = httpx.get(f"https://{server.address}{path}", verify=verify)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": "0.1.0"})
    assert server.log.read_text() == ""  # and what Flower has to tell is not said


def test_a_registered_client_joins_and_the_operator_sees_it(
    server: Server, folder: Path, master: OperatorKeys
) -> None:
    keys = ClientKeys.load(folder / "client-1")
    client = fleet(server, keys)
    node = client.ActivateNode(join(keys)).node_id
    assert not client.PullMessages(PullMessagesRequest(node=Node(node_id=node))).messages_list
    with operator(server, master) as http:
        seen = http.get("/fedsim/server").json()["clients"]
    assert [row["client"] for row in seen] == [0, 1, 2]
    assert seen[1] == {"client": 1, "node-id": node, "online": True}
    client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    with operator(server, master) as http:
        assert not http.get("/fedsim/server").json()["clients"][1]["online"]
    for what in ("has joined", "has left"):
        assert len(server.lines("INFO client 1 (127.0.0.1:", what)) == 1


def test_an_unregistered_client_is_refused(server: Server, tmp_path: Path, keys: ClientKeys) -> None:
    make_keys(tmp_path / "other", 1, [], YEAR)
    other = ClientKeys.load(tmp_path / "other" / "client-0")
    other = dataclasses.replace(other, root_certificates=keys.root_certificates)  # got somehow
    with pytest.raises(httpx.HTTPStatusError) as error:
        fleet(server, other).ActivateNode(join(other))
    status, reason = refusal(error)
    assert status == 401
    assert reason.endswith("is not registered")
    assert len(server.lines("WARNING refused 127.0.0.1:", ": /v1/fleet/activate-node: ", reason)) == 1


def test_a_client_with_anothers_public_key_is_refused(server: Server, keys: ClientKeys) -> None:
    with pytest.raises(httpx.HTTPStatusError) as error:
        fleet(server, keys, key=generate_key_pairs()[0]).ActivateNode(join(keys))
    assert refusal(error) == (401, "the signature is not by the client's key")
    server.lines("refused client 0 (127.0.0.1:", "the signature is not by the client's key")


def test_nodes_cannot_be_registered_over_the_fleet_api(server: Server, keys: ClientKeys) -> None:
    request = RegisterNodeFleetRequest(public_key=public_key_to_bytes(keys.node_key.public_key()))
    with pytest.raises(httpx.HTTPStatusError) as error:
        fleet(server, keys).RegisterNode(request)
    assert refusal(error)[0] == 403
    server.lines("/v1/fleet/register-node: ", "registration is closed")


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("RegisterNode", RegisterNodeRequest(public_key=public_key_to_bytes(generate_key_pairs()[1]))),
        ("StartRun", StartRunRequest()),
        ("ListRuns", ListRunsRequest()),
    ],
)
def test_no_control_call_without_the_operators_credential(
    server: Server, master: OperatorKeys, tmp_path: Path, name: str, request_: object
) -> None:
    with pytest.raises(httpx.HTTPStatusError) as error:
        getattr(control(server, master, signed=False), name)(request_)
    assert refusal(error) == (401, "the operator's credential is missing")
    path = {"RegisterNode": "register-node", "StartRun": "start-run", "ListRuns": "list-runs"}[name]
    server.lines(f"/v1/control/{path}: the operator's credential is missing")
    make_keys(tmp_path / "other", 1, [], YEAR)
    stranger = OperatorKeys.load(tmp_path / "other" / "operator")
    forged = OperatorKeys(master.folder, master.root_certificates, stranger.key)
    with pytest.raises(httpx.HTTPStatusError) as error:
        getattr(control(server, forged), name)(request_)
    assert refusal(error)[1].startswith("the credential is not the operator's")


def test_the_operator_is_served_and_a_request_sent_again_is_not(server: Server, master: OperatorKeys) -> None:
    assert not control(server, master).ListRuns(ListRunsRequest()).run_dict
    path = "/v1/control/list-runs"
    headers = sign(master.key, "POST", path, b"") | {"content-type": PROTOBUF_MEDIA_TYPE}
    with httpx.Client(verify=trusting(master.root_certificates)) as http:
        first, second = (http.post(f"https://{server.address}{path}", headers=headers) for _ in range(2))
    assert first.status_code == 200
    assert second.status_code == 401
    server.lines(f"{path}: the credential was used before")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_run_directories_are_for_the_operator(server: Server, keys: ClientKeys, method: str) -> None:
    path = "/fedsim/runs" if method == "GET" else "/fedsim/runs/x/stop"
    url = f"https://{server.address}{path}"
    answer = httpx.request(method, url, verify=trusting(keys.root_certificates))
    assert answer.status_code == 401
    server.lines(f"{path}: the operator's credential is missing")


def test_one_process_a_key(server: Server, folder: Path) -> None:
    keys = ClientKeys.load(folder / "client-2")
    first, second, stock = (fleet(server, keys, instance) for instance in ("aa", "bb", ""))
    node = first.ActivateNode(join(keys)).node_id
    pull = PullMessagesRequest(node=Node(node_id=node))
    for other in (second, stock):
        for call, request in ((other.ActivateNode, join(keys)), (other.PullMessages, pull)):
            with pytest.raises(httpx.HTTPStatusError) as error:
                call(request)
            assert refusal(error)[0] == 409
    first.PullMessages(pull)
    server.lines(
        "refused client 2 (127.0.0.1:", "/v1/fleet/activate-node: another process has this client's key"
    )
    first.DeactivateNode(DeactivateNodeRequest(node_id=node))
    second.ActivateNode(join(keys))
    second.DeactivateNode(DeactivateNodeRequest(node_id=node))


def test_a_client_joins_again_without_having_left(server: Server, keys: ClientKeys) -> None:
    assert len({fleet(server, keys).ActivateNode(join(keys)).node_id for _ in range(2)}) == 1


def give(client: FleetHttpClient, request: PushMessagesRequest) -> None:
    client._unary_unary(path=GIVE, rpc_method="", request=pack(request), response_type=PushMessagesResponse)


def test_a_reply_in_anothers_name_is_refused(server: Server, keys: ClientKeys) -> None:
    client = fleet(server, keys)
    node = client.ActivateNode(join(keys)).node_id
    forged = Message(metadata=Metadata(src_node_id=node + 1))
    for claimed, reason in (
        (node, "403 the reply is in the name of another client"),
        (node + 1, "401 the node is not that of the client's key"),
    ):
        request = PushMessagesRequest(
            node=Node(node_id=claimed), messages_list=[forged], message_object_trees=[ObjectTree()]
        )
        with pytest.raises(httpx.HTTPStatusError):
            give(client, request)
        server.lines("refused client 0 (", f"/v1/fleet/give: {reason}")


def test_a_reply_that_comes_in_parts_is_refused(server: Server, keys: ClientKeys) -> None:
    client = fleet(server, keys)
    node = Node(node_id=client.ActivateNode(join(keys)).node_id)
    for call, request in (
        (client.PushMessages, PushMessagesRequest(node=node)),
        (client.PushObject, PushObjectRequest(node=node)),
    ):
        with pytest.raises(httpx.HTTPStatusError) as error:
            call(request)
        assert refusal(error) == (
            403,
            "a reply in parts is not accepted; `fedsim client` sends replies whole",
        )
    server.lines("refused client 0 (", "/v1/fleet/push-messages: a reply in parts is not accepted")


def test_what_flower_refuses_is_logged_too(server: Server, keys: ClientKeys) -> None:
    client = fleet(server, keys)
    client.ActivateNode(join(keys))
    with pytest.raises(httpx.HTTPStatusError):
        client.PullMessages(PullMessagesRequest(node=Node(node_id=12345)))
    server.lines("refused client 0 (", "/v1/fleet/pull-messages: 401", "Invalid SuperNode authentication")


def test_a_message_that_is_too_large_is_refused(server: Server, keys: ClientKeys) -> None:
    client = fleet(server, keys)
    with pytest.raises(httpx.HTTPStatusError) as error:
        client.ActivateNode(ActivateNodeRequest(public_key=b"x" * 2**20))
    assert refusal(error) == (413, "the request has 1.0 MiB or more; 1.0 are allowed")
    server.lines("refused client 0 (", "/v1/fleet/activate-node: the request has 1.0 MiB or more")

    def parts() -> Iterator[bytes]:
        yield from [b"x" * 2**18] * 5

    # The same where the length is not known from the start.
    answer = client._client.post(f"https://{server.address}/v1/runtime/x", content=parts())
    assert answer.status_code == 413


def test_plain_http_is_refused(server: Server) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{server.address}/health")
    server.lines("WARNING refused 127.0.0.1:", "connection: it spoke plain HTTP; TLS is needed")


def test_a_client_with_a_foreign_authority_is_refused(server: Server, tmp_path: Path) -> None:
    make_keys(tmp_path / "other", 1, [], YEAR)
    other = ClientKeys.load(tmp_path / "other" / "client-0")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        fleet(server, other).ActivateNode(join(other))
    server.lines("refused 127.0.0.1:", "connection: it does not trust this server's certificate authority")


def test_a_client_that_calls_the_server_by_another_name_is_refused(server: Server, keys: ClientKeys) -> None:
    name = {"sni_hostname": "fl.example.org"}
    refused = pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED")
    with httpx.Client(verify=trusting(keys.root_certificates)) as http, refused:
        http.get(f"https://{server.address}/health", extensions=name)
    server.lines("refused 127.0.0.1:", "connection: it does not accept this server's certificate")


def test_clients_that_were_added_join_without_a_restart(server: Server, folder: Path) -> None:
    [number] = add_clients(folder, 1)
    keys = ClientKeys.load(folder / f"client-{number}")
    assert fleet(server, keys).ActivateNode(join(keys)).node_id > 0


def test_only_this_machine_gets_to_what_is_flowers_own(server: Server, keys: ClientKeys) -> None:
    verify = trusting(keys.root_certificates)
    assert httpx.get(f"https://{server.address}/docs", verify=verify).status_code == 200
    url = f"https://{server.address}/v1/runtime/acquire-task"
    answer = httpx.post(url, verify=verify, headers={"content-type": PROTOBUF_MEDIA_TYPE})
    assert answer.status_code == 401  # SuperExec has a secret
    assert len(server.lines("/v1/runtime/acquire-task")) == 1
