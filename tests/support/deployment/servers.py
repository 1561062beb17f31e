"""Server processes for tests, and clients of their APIs."""

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from fedsim.deployment.keys import ClientKeys, OperatorKeys
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-c", "from fedsim.cli import app; app()"]
_opened: list[Any] = []
LONGEST = 60.0  # seconds that a test waits for what should come at once


@dataclass
class Server:
    """A server that runs, its address and its log."""

    process: subprocess.Popen[str]
    port: int
    state: Path
    log: Path
    ready: str

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def lines(self, *parts: str) -> list[str]:
        """Return the log's lines that hold all parts; there is at least one, soon."""

        def found() -> list[str]:
            return [line for line in self.log.read_text().splitlines() if all(p in line for p in parts)]

        return wait_for(found, LONGEST, said=lambda: f"no line with {parts} in:\n{self.log.read_text()}")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def serving(
    keys: Path | None, state: Path, *options: str, host: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[Server]:
    """Start a server on a free port, and end it; a prefix is a command that starts it."""
    log = state.with_name(f"{state.name}.log")
    trust = ["--insecure"] if keys is None else ["--keys", str(keys / "server")]
    with log.open("a") as stream:
        process = subprocess.Popen(
            [
                *prefix,
                *COMMAND,
                "server",
                "--state",
                str(state),
                "--host",
                host,
                "--port",
                "0",
                *trust,
                *options,
            ],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("fedsim server: ready on "), log.read_text()
        yield Server(process, int(ready.split()[4].rpartition(":")[2]), state, log, ready)
    finally:
        process.terminate()
        try:
            process.wait(LONGEST)
        finally:
            process.kill()
            process.communicate()
            for pid in started_for(state):
                os.kill(pid, signal.SIGKILL)


def started_for(state: Path) -> list[int]:
    """Return the processes that a server with a state folder has started, and that run."""
    mark = f"FEDSIM_DEPLOYED={state}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def all_gone(state: Path) -> bool:
    """Wait until nothing that a server started is left."""
    until = time.monotonic() + LONGEST
    while (left := started_for(state)) and time.monotonic() < until:
        time.sleep(0.1)
    return not left


def close_clients() -> None:
    """Close what `fleet` and `control` have opened."""
    while _opened:
        _opened.pop().close()


def trusting(root_certificates: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root_certificates.decode())
    return context


def fleet(server: Server, keys: ClientKeys, instance: str = "", key: Any = None) -> Any:
    """Return a client of the Fleet API; `key` signs instead of the client's own."""
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    client = FleetHttpClient.from_server_address(
        server.address,
        False,
        keys.root_certificates,
        [NodeAuthHttpInterceptor(key or keys.node_key, keys.node_key.public_key())],
    )
    _opened.append(client)
    if instance:
        client._client.headers["Fedsim-Instance"] = instance
    return client


def control(server: Server, keys: OperatorKeys, signed: bool = True) -> Any:
    """Return a client of the Control API."""
    from flwr.supercore.control.control_http_client import ControlHttpClient

    from fedsim.deployment.credential import sign_request
    from fedsim.flower.http import Prepared

    interceptors = [Prepared(partial(sign_request, keys.key))] if signed else []
    client = ControlHttpClient.from_server_address(
        server.address, False, keys.root_certificates, interceptors
    )
    _opened.append(client)
    return client


def operator(server: Server, keys: OperatorKeys) -> httpx.Client:
    """Return an HTTP client with the operator's credential."""
    from fedsim.deployment.credential import OperatorAuth

    return httpx.Client(
        base_url=f"https://{server.address}",
        verify=trusting(keys.root_certificates),
        auth=OperatorAuth(keys.key),
    )
