"""Client processes: what they answer, store and refuse, and that they survive failures."""

import json
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fedsim import Experiment
from fedsim.deployment.bundle import make_bundle
from fedsim.deployment.keys import make_keys
from fedsim.deployment.operator.remote import Remote
from fedsim.errors import Refused
from fedsim.flower.control import FlowerRun
from tests.support.deployment.bundles import files_of, zipped
from tests.support.deployment.clients import Client, client, keyed, run
from tests.support.deployment.servers import LONGEST, Server, serving

pytestmark = pytest.mark.slow  # each process takes seconds to start

CLIENTS = 3


def experiment(*overrides: str) -> Experiment:
    text = """
        name = "digits"
        rounds = 2
        [data]
        clients = 3
        [client]
        epochs = 1
        batch-size = 10
        learning-rate = 0.1
        [model]
        name = "linear"
        [server]
        cohort = 3
        [runtime]
        engine = "sequential"
    """
    return Experiment.from_toml(text, overrides)


@dataclass
class Federation:
    """A server and its clients, in a folder; the folders of the clients' states are `c0`, `c1`, `c2`."""

    folder: Path
    keys: Path
    server: Server
    clients: list[Client]

    def run(self, experiment: Experiment, name: str, **how: Any) -> FlowerRun:
        return run(self.server, self.keys, experiment, name, **how)

    def complete(self, experiment: Experiment, name: str) -> FlowerRun:
        ended = self.run(experiment, name)
        assert (ended.outcome, ended.details) == ("completed", "")
        return ended


@contextmanager
def federated(folder: Path, limits: Mapping[int, int] = MappingProxyType({})) -> Iterator[Federation]:
    make_keys(folder / "keys", CLIENTS, [], timedelta(days=1))
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder / "keys", folder / "server"))
        started = [
            stack.enter_context(
                client(folder, f"c{n}", *keyed(server, folder / "keys", n), largest_file=limits.get(n))
            )
            for n in range(CLIENTS)
        ]
        for number, each in enumerate(started):
            each.says(f"fedsim client: {number} of 3 joined {server.address}")
        yield Federation(folder, folder / "keys", server, started)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """What the tests that leave it as it is share."""
    with federated(tmp_path_factory.mktemp("federation")) as federation:
        yield federation


def test_a_client_notes_each_round_that_it_takes_part_in(federation: Federation) -> None:
    ended = federation.complete(experiment(), "noted")
    lines = (federation.folder / "c0" / "notes.jsonl").read_text().splitlines()
    notes = [note for note in map(json.loads, lines) if note["run"] == "noted"]
    assert [(note["series"], note["round"]) for note in notes] == [
        (ended.series_id, 1),
        (ended.series_id, 2),
    ]


def test_nobody_runs_code_of_the_operators_choice(federation: Federation) -> None:
    fab = zipped({**files_of(make_bundle()), "probe.py": b"import os"})
    with pytest.raises(
        Refused, match=r"its bundle is not one of fedsim's: it holds files of its own: 'probe.py'"
    ):
        federation.run(experiment(), "probe", fab=fab)
    federation.server.lines("/v1/control/start-run: 403 its bundle is not one of fedsim's")
    with pytest.raises(
        Refused, match=r"server.strategy = 'os:system' is a function of the caller's choice; a server"
    ):
        federation.run(experiment("server.strategy=os:system"), "shell")
    assert not (federation.server.state / "runs/shell").exists()


def test_an_app_that_raises(federation: Federation) -> None:
    federation.complete(experiment("rounds=1", "faults.crash=1"), "crash")  # an empty round
    federation.clients[0].says("RuntimeError: crashed (faults.crash)")
    private = ["privacy.dp-sgd.noise-multiplier=1", "privacy.dp-sgd.delta=1e-5"]
    ended = federation.run(experiment("rounds=1", "faults.crash=1", *private), "private-crash")
    assert "crashed" not in ended.details
    assert ended.details.endswith("client 0: failed")
    federation.complete(experiment("rounds=1"), "after")


def test_full_disks_and_kills(tmp_path: Path) -> None:
    with federated(tmp_path, limits={2: 150}) as federation:
        _a_full_disk(federation)
        _the_server_killed_and_back(federation)


def _a_full_disk(federation: Federation) -> None:
    federation.complete(experiment("rounds=3"), "full")
    federation.clients[2].says("round 2: train", "state can't be kept")
    metrics = (federation.server.state / "runs/full/metrics.jsonl").read_text()
    rows = [json.loads(line) for line in metrics.splitlines()]
    assert [row["failures"] for row in rows] == [0, 1, 1]
    assert rows[1]["failure-reasons"] == ["client 2: state can't be kept"]
    assert len((federation.folder / "c2" / "notes.jsonl").read_text().splitlines()) == 1


def _the_server_killed_and_back(federation: Federation) -> None:
    server = federation.server
    server.process.kill()
    server.process.wait()
    for each in federation.clients:
        each.says(f"{server.address} is away", "trying again")
    with serving(federation.keys, server.state, "--port", str(server.port)) as back:
        for each in federation.clients:
            each.says(f"{server.address} answers again")
        federation.server = back
        _a_client_killed_and_back(federation)


def _a_client_killed_and_back(federation: Federation) -> None:
    """With the operating system's noise a client sends one update in a round, also after a kill."""
    noise = ["privacy.dp-sgd.noise-multiplier=1", "privacy.dp-sgd.delta=1e-5", "privacy.noise=os"]
    real = experiment("rounds=1", *noise)
    first = federation.complete(real, "first")
    killed = federation.clients[0]
    killed.process.kill()
    killed.process.wait()
    with client(federation.folder, "c0", *keyed(federation.server, federation.keys, 0)) as again:
        again.says("0 of 3 joined", after=len(killed.text))
        assert federation.run(real, "second", series=first.series_id).outcome == "failed"
        for each in (again, federation.clients[1]):
            each.says("round 1: train", "round 1: this client has taken part in it before")
        federation.complete(real, "another-series")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", CLIENTS, [], timedelta(days=1))
    return tmp_path / "keys"


@pytest.fixture
def server(tmp_path: Path, keys: Path) -> Iterator[Server]:
    with serving(keys, tmp_path / "server") as server:
        yield server


def refusal(folder: Path, name: str, *options: str) -> str:
    """Return the last line of a client that ends by itself, refused."""
    with client(folder, name, *options) as one:
        assert one.process.wait(LONGEST) == 2
        time.sleep(0.2)
        return one.text.splitlines()[-1]


def test_which_clients_are_admitted(tmp_path: Path, keys: Path, server: Server) -> None:
    make_keys(tmp_path / "others", CLIENTS, [], timedelta(days=1))
    foreign = keyed(server, tmp_path / "others", 0)
    said = refusal(tmp_path, "a", *foreign)
    assert f"fedsim: {server.address}: its certificate is not accepted" in said
    shutil.copy(keys / "client-0" / "ca.pem", tmp_path / "others" / "client-0" / "ca.pem")
    said = refusal(tmp_path, "a", *foreign)
    assert f"fedsim: this client's key is not registered at {server.address}" in said
    assert server.lines("activate-node", "is not registered")
    insecure = ["--on", server.address, "--insecure", "--partition", "0", "--of", "3"]
    assert refusal(tmp_path, "a", *insecure).endswith("speaks TLS; --insecure is for a server without it")


def test_one_process_for_each_key_and_state(tmp_path: Path, keys: Path, server: Server) -> None:
    with Remote.connect(server.address, keys / "operator") as remote:

        def online() -> list[bool]:
            return [each["online"] for each in remote.server()["clients"]]

        with client(tmp_path, "one", *keyed(server, keys, 1)) as one:
            one.says("joined")
            assert online() == [False, True, False]
            said = refusal(tmp_path, "one", *keyed(server, keys, 1))
            assert said.endswith("another process uses it; each client has its own")
            with client(tmp_path, "two", *keyed(server, keys, 1)) as two:
                two.says("refuses this client for now", "another process has this client's key")
                assert "joined" not in two.text
                one.process.send_signal(signal.SIGINT)
                assert one.process.wait(LONGEST) == 0
                two.says("joined")
                two.process.terminate()
                assert two.process.wait(LONGEST) == 0
                assert online() == [False, False, False]


def test_a_server_without_keys(tmp_path: Path) -> None:
    with serving(None, tmp_path / "server") as server:
        on = ["--on", server.address.replace("localhost", "127.0.0.1")]
        with client(tmp_path, "a", *on, "--insecure", "--partition", "1", "--of", "3") as one:
            one.says("1 of 3 joined")
        make_keys(tmp_path / "keys", 1, [], timedelta(days=1))
        said = refusal(tmp_path, "b", *on, "--keys", str(tmp_path / "keys" / "client-0"))
        assert said.endswith("it doesn't speak TLS")
