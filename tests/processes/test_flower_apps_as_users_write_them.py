"""Flower apps as users write them: clients that raise, the legacy API, node configs, servers that wait, global generators."""

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fedsim
from fedsim import RunFailed
from fedsim.cli import app as cli
from fedsim.runtime import waiting
from tests.processes.test_flower_apps import main_of, write_app

QUERY = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    messages = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
    print(len(list(grid.send_and_receive(messages))), "replies")
"""
RAISES = """
from flwr.clientapp import ClientApp
app = ClientApp()

def read(client):
    if client == 2:
        raise KeyError("label")
    raise ValueError(f"bad column {client}")

@app.query()
def query(message, context):
    read(context.node_config["partition-id"])
"""


@pytest.mark.parametrize(("engine", "workers"), [("sequential", 0), ("local", 2)])
def test_what_clients_raise_is_said_once_for_each_kind_and_counted(
    tmp_path: Path, engine: str, workers: int
) -> None:
    write_app(tmp_path / "app", server=QUERY, client=RAISES)
    arguments = ["run", "app", "--clients", "4", "--engine", engine, "--workers", str(workers), "--out", "r"]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, "4 replies" in result.stdout) == (0, True)
    said = [line for line in result.stderr.splitlines() if "failed" in line]
    assert len(said) == 2
    assert all(line.endswith(("(client_app.py, line 8)", "(client_app.py, line 7)")) for line in said)
    log = Path("r/log.txt").read_text()
    for client in (0, 1, 3):
        assert f"client {client} failed: ValueError: bad column {client} (client_app.py, line 8)" in log
    assert "client 2 failed: KeyError: 'label' (client_app.py, line 7)" in log
    assert ", 4 client failures, the first " in result.stdout.splitlines()[-1]
    assert fedsim.load_run("r").manifest["final"]["client-failures"] == 4


def test_failures_are_told_when_all_else_is_silent(tmp_path: Path) -> None:
    write_app(tmp_path / "app", server=QUERY, client=RAISES)
    arguments = ["run", "app", "--clients", "1", "--engine", "sequential", "--quiet"]
    result = CliRunner().invoke(cli, arguments)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (0, "")
    assert "1 client failures, the first 'ValueError: bad column 0 (client_app.py, line 8)'" in line


def test_a_server_that_fails_says_what_its_clients_did(tmp_path: Path) -> None:
    server = QUERY.replace("print(", "raise RuntimeError(")
    app = write_app(tmp_path / "app", server=server, client=RAISES)
    with pytest.raises(RunFailed, match="; 1 client failures, the first 'ValueError: bad column 0"):
        fedsim.run_app(app, clients=1, engine="sequential", quiet=True)


# --- Flower's legacy API ------------------------------------------------------------------------------------

LEGACY_SERVER = """
import numpy as np
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

class Saving(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        total, metrics = super().aggregate_fit(server_round, results, failures)
        np.save("w.npy", parameters_to_ndarrays(total)[0])
        return total, metrics

def parts(context):
    strategy = Saving(initial_parameters=ndarrays_to_parameters([np.zeros(5)]), min_available_clients=MOST)
    return dict(strategy=strategy, config=ServerConfig(num_rounds=context.run_config["rounds"]))

"""
BY_FUNCTION = "app = ServerApp(server_fn=lambda context: ServerAppComponents(**parts(context)))"
BY_PARTS = (
    "from types import SimpleNamespace\napp = ServerApp(**parts(SimpleNamespace(run_config={'rounds': 2})))"
)
LEGACY_CLIENT = """
import numpy as np
from flwr.client import ClientApp, NumPyClient

class Client(NumPyClient):
    def __init__(self, client):
        self.client = client

    def fit(self, parameters, config):
        return [np.cos(parameters[0] + np.pi * self.client)], self.client + 1, {}

    def evaluate(self, parameters, config):
        return 0.5, self.client + 1, {}

app = ClientApp(client_fn=lambda context: Client(context.node_config["partition-id"]).to_client())
"""


def legacy_app(folder: Path, how: str, most: int = 7) -> Path:
    return write_app(folder, server=LEGACY_SERVER.replace("MOST", str(most)) + how, client=LEGACY_CLIENT)


@pytest.mark.parametrize("how", [BY_FUNCTION, BY_PARTS])
def test_apps_of_the_legacy_api_run(tmp_path: Path, how: str) -> None:
    app = legacy_app(tmp_path / "app", how)
    w = np.zeros(5)
    for _ in range(2):
        w = sum((k + 1) * np.cos(w + np.pi * k) for k in range(7)) / 28
    saved = []
    for engine in ("sequential", "local"):
        fedsim.run_app(app, clients=7, engine=engine, workers=2 * (engine == "local"), quiet=True)
        saved.append(np.load("w.npy").tobytes())
    np.testing.assert_allclose(np.load("w.npy"), w, rtol=1e-14)
    assert len(set(saved)) == 1


def test_a_legacy_server_does_not_wait_for_nodes_that_can_not_come(tmp_path: Path) -> None:
    app = legacy_app(tmp_path / "app", BY_FUNCTION, most=8)
    with pytest.raises(RunFailed, match=r"^the app waits for 8 nodes: a simulation has all its 7 from the"):
        fedsim.run_app(app, clients=7, engine="sequential", quiet=True)


# --- waiting for nodes --------------------------------------------------------------------------------------

WAITS = """
from time import sleep
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    while len(list(grid.get_node_ids())) < 5:
        sleep(0.02)
"""
STRATEGY = """
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()

@app.main()
def main(grid, context):
    FedAvg(min_available_nodes=5).start(grid=grid, initial_arrays=ArrayRecord([np.zeros(2)]))
"""


@pytest.mark.parametrize("server", [WAITS, STRATEGY])
def test_a_server_that_waits_for_nodes_that_can_not_come_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.1)
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda _: time.sleep(0.03))
    app = write_app(tmp_path / "app", server=server)
    with pytest.raises(
        RunFailed, match=r"waits for more nodes: a simulation has all its 4 .*\(--clients gives"
    ):
        fedsim.run_app(app, clients=4, engine="sequential", quiet=True)
    assert (
        fedsim.run_app(app, clients=5, engine="sequential", quiet=True).status == "completed"
        or server == STRATEGY
    )


@pytest.mark.parametrize(
    "body",
    [
        "[(grid.get_node_ids(), sum(range(3_000_000))) for _ in range(8)]",  # computes
        "[(grid.get_node_ids(), time.sleep(0.04), list(grid.pull_messages([]))) for _ in range(8)]",  # does something
        "[(grid.get_node_ids(), time.sleep(0.06)) for _ in range(4)]",  # has not asked often
    ],
)
def test_other_servers_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.1)
    app = write_app(tmp_path / "app", server=f"import time\n{main_of(body)}")
    assert fedsim.run_app(app, engine="sequential", quiet=True).status == "completed"


# --- node configs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-n", "site='Bern' gpu=true", "--clients", "2"], [{"site": "Bern", "gpu": True}] * 2),
        (["-n", "all.toml", "--clients", "2"], [{"site": "Bern", "deep.rate": 0.5}] * 2),
        (["-n", "each.toml"], [{"gpu": False, "site": s} for s in ("Bern", "Rome", "Oslo")]),
    ],
)
def test_nodes_have_their_configs(tmp_path: Path, options: list[str], expected: list[dict[str, Any]]) -> None:
    Path("all.toml").write_text("site = 'Bern'\n[deep]\nrate = 0.5")
    tables = "".join(f"[[node]]\nsite = '{site}'\n" for site in ("Bern", "Rome", "Oslo"))
    Path("each.toml").write_text("gpu = false\n" + tables)
    write_app(tmp_path / "app")
    options = ["--node-config" if option == "-n" else option for option in options]
    result = CliRunner().invoke(cli, ["run", "app", "--engine", "sequential", *options, "--out", "r"])
    assert result.exit_code == 0, result.output
    told = [client["node-config"] for client in json.loads(Path("told.json").read_text())["clients"]]
    count = len(expected)
    assert told == [{"partition-id": i, "num-partitions": count, **e} for i, e in enumerate(expected)]


# --- global generators --------------------------------------------------------------------------------------

DRAWING_SERVER = """
import json, random
from pathlib import Path
import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
from drawn import split
app = ServerApp()

@app.main()
def main(grid, context):
    drawn = [split, random.random(), np.random.rand()]
    for _ in range(2):
        nodes = list(grid.get_node_ids())
        random.shuffle(nodes)
        replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes])
        drawn.append([list(reply.content["drawn"]["numbers"]) for reply in replies])
    Path("drawn.json").write_text(json.dumps([*drawn, random.random()]))
"""
DRAWING_CLIENT = """
import random
import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from drawn import split
app = ClientApp()

@app.query()
def query(message, context):
    import torch
    drawn = [split, random.random(), np.random.rand(), torch.rand(()).item(), torch.rand(()).item()]
    return Message(RecordDict({"drawn": ConfigRecord({"numbers": drawn})}), reply_to=message)
"""


def test_global_generators_draw_the_same_on_every_engine(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", server=DRAWING_SERVER, client=DRAWING_CLIENT)
    (app / "drawn.py").write_text("import random\nsplit = random.random()\n")
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    def drawn(**how: Any) -> Any:
        fedsim.run_app(app, clients=3, quiet=True, **how)
        return json.loads(Path("drawn.json").read_text())

    one = drawn(engine="sequential")
    assert drawn(engine="local", workers=2) == one
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    numbers = [number for replies in one[3:5] for reply in replies for number in reply[1:]]
    assert len(set(numbers)) == 2 * 3 * 4  # other draws for each client, message and generator
    assert {reply[0] for replies in one[3:5] for reply in replies} == {one[0]}
    other = drawn(engine="sequential", seed=1)
    assert other[1] != one[1]
    assert drawn(engine="sequential", seed=None) != drawn(engine="sequential", seed=None)
