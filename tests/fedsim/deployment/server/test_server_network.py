"""A server seen from another machine: a network namespace with an address of its own stands in for it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fedsim.deployment.keys import make_keys
from tests.support.deployment.servers import environment, serving

SERVER, CLIENT = "10.231.77.1", "10.231.77.2"
LOOK = """
import json, sys
from pathlib import Path
import httpx
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from fedsim.deployment.keys import ClientKeys
from tests.support.deployment.servers import trusting

address, folder = sys.argv[1:]
keys = ClientKeys.load(Path(folder))
public = keys.node_key.public_key()
seen = {}
for path in ("/health", "/docs", "/openapi.json", "/v1/runtime/acquire-task", "/v1/control/start-run"):
    method = "POST" if path.startswith("/v1") else "GET"
    url = f"https://{address}{path}"
    seen[path] = httpx.request(method, url, verify=trusting(keys.root_certificates)).status_code
client = FleetHttpClient.from_server_address(
    address, False, keys.root_certificates, [NodeAuthHttpInterceptor(keys.node_key, public)]
)
request = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=30)
seen["joined"] = client.ActivateNode(request).node_id > 0
client.close()
print(json.dumps(seen))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two machines on one wire."""
    names = f"fedsim-a-{os.getpid()}", f"fedsim-b-{os.getpid()}"
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "veth0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            "veth0",
            "netns",
            names[1],
        )
        for name, address in zip(names, (SERVER, CLIENT), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield names
    finally:
        for name in names:
            with suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "delete", name)


def look(namespace: str, address: str, keys: Path) -> Any:
    result = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", LOOK, address, str(keys)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["0.0.0.0", SERVER])
def test_another_machine_gets_what_is_for_it_alone(
    tmp_path: Path, namespaces: tuple[str, str], host: str
) -> None:
    here, there = namespaces
    make_keys(tmp_path / "keys", 1, [SERVER], timedelta(days=1))
    client = tmp_path / "keys" / "client-0"
    with serving(
        tmp_path / "keys", tmp_path / "state", host=host, prefix=["ip", "netns", "exec", here]
    ) as server:
        mine = look(here, f"{SERVER}:{server.port}", client)
        theirs = look(there, f"{SERVER}:{server.port}", client)
    refused = {
        "/docs": 403,
        "/openapi.json": 403,
        "/v1/runtime/acquire-task": 403,
        "/v1/control/start-run": 401,
    }
    assert theirs == {"/health": 200, "joined": True, **refused}
    assert mine == theirs | {"/docs": 200, "/openapi.json": 200, "/v1/runtime/acquire-task": 415}
    for path in ("/docs", "/openapi.json", "/v1/runtime/acquire-task"):
        server.lines(f"WARNING refused {CLIENT}:", f": {path}: is for processes on the server's own machine")
