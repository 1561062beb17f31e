"""Any Flower app: loaded as `flwr run` does, the same results as under Flower's own runtime, one line where it can't be."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.cli.build import build_fab_from_disk
from typer.testing import CliRunner

import fedsim
from fedsim import Refused, RunFailed
from fedsim.cli import app as cli
from fedsim.flower.app import FlowerApp

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "support" / "apps_flower"
FEDSIM = Path(sys.executable).with_name("fedsim")

PYPROJECT = """
[project]
name = "little"
version = "0.1"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"
[tool.flwr.app.config]
rounds = 2
nested.rate = 0.5
name = "a"
"""
SERVER = """
import json
from pathlib import Path
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    print("the server runs")
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in grid.get_node_ids()])
    told = sorted((json.loads(reply.content["told"]["json"]) for reply in replies), key=lambda t: t["client"])
    mine = [context.run_id, context.node_id, context.node_config, len(context.state), context.run_config]
    Path("told.json").write_text(json.dumps({"server": mine, "clients": told, "cwd": str(Path.cwd())}))
"""
CLIENT = """
import json
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.query()
def tell(message: Message, context: Context) -> Message:
    print("a client runs")
    told = {
        "client": context.node_config["partition-id"],
        "run": context.run_id,
        "node": context.node_id,
        "node-config": context.node_config,
        "state": len(context.state),
        "run-config": context.run_config,
        "module": __file__,
    }
    return Message(RecordDict({"told": ConfigRecord({"json": json.dumps(told)})}), reply_to=message)
"""


def write_app(folder: Path, pyproject: str = PYPROJECT, server: str = SERVER, client: str = CLIENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(pyproject)
    (folder / "server_app.py").write_text(server)
    (folder / "client_app.py").write_text(client)
    return folder


def main_of(body: str) -> str:
    """Return a ServerApp whose main is some lines."""
    return (
        "import sys\nfrom flwr.serverapp import ServerApp\napp = ServerApp()\n"
        f"@app.main()\ndef main(grid, context):\n    {body}\n"
    )


def result_of(app: str, out: str, **how: Any) -> dict[str, np.ndarray]:
    """Run one of the two apps with five clients and return the arrays that it saves."""
    fedsim.run_app(APPS / app, {"out": f"{out}.npz"}, 5, f"run-{out}", quiet=True, **how)
    return dict(np.load(f"{out}.npz"))


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


# --- the same results as under Flower -----------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow  # Ray takes about 20 s for each
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")  # Ray's own
@pytest.mark.parametrize("app", ["numpy_app", "torch_app"])
def test_an_app_gives_the_same_bits_as_under_flowers_own_runtime(app: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = ROOT / "tests" / "support" / "flower_runtime.py"
    out = f"out='{tmp_path / 'flower.npz'}'"
    done = subprocess.run(
        [sys.executable, str(script), str(APPS / app), "5", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    flower = dict(np.load("flower.npz"))
    assert same_bits(result_of(app, "sequential", engine="sequential"), flower)
    assert same_bits(result_of(app, "local", workers=2), flower)
    assert same_bits(result_of(app, "ray", engine="ray", workers=2), flower)


@pytest.mark.slow
@pytest.mark.parametrize("app", ["numpy_app", "torch_app"])
def test_the_engines_agree_on_an_app(app: str) -> None:
    one = result_of(app, "sequential", engine="sequential")
    assert same_bits(result_of(app, "local", engine="local", workers=2), one)


def test_the_numpy_app_does_what_it_says() -> None:
    clients, w = [], np.zeros(4)
    for client in range(5):
        generator = np.random.default_rng(client)
        x = generator.normal(size=(5 + 3 * client, 4))
        clients.append((x, x @ np.array([1.0, 2.0, 3.0, 4.0]) + 0.1 * generator.normal(size=len(x))))
    total = sum(len(x) for x, _ in clients)
    errors = []
    for _ in range(2):
        local = []
        for x, y in clients:
            v = w
            for _ in range(2):
                v = v - 0.25 * x.T @ (x @ v - y) / len(x)
            local.append(len(x) / total * v)
        w = np.sum(local, axis=0)
        errors.append(sum(float(np.square(x @ w - y).sum()) for x, y in clients) / total)
    changes = {"learning-rate": 0.25, "num-server-rounds": 2, "out": "final.npz"}
    fedsim.run_app(APPS / "numpy_app", changes, engine="sequential", quiet=True)
    result = np.load("final.npz")
    np.testing.assert_allclose(result["w"], w, rtol=1e-12)
    np.testing.assert_allclose(result["errors"], errors, rtol=1e-12)


def test_mods_lifespans_and_states_of_the_torch_app() -> None:
    result = result_of("torch_app", "a", engine="sequential")
    assert result["trained"].tolist() == [3, 3, 3, 3, 1]  # odd rounds leave the last client out
    assert result["errors"] == 3  # client 1 raises in each round's evaluation
    assert result["evaluated"].tolist() == [3, 0, 3, 3, 3]  # and what it counted before is forgotten
    assert result["begun"].tolist() == result["ended"].tolist() == [8, 5, 8, 8, 6]
    assert result["started"] == 1


# --- what an app is given -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sequential", "local"])
def test_contexts_are_as_flower_makes_them(tmp_path: Path, engine: str) -> None:
    app = write_app(tmp_path / "elsewhere" / "app")
    fedsim.run_app(app, {"nested.rate": 0.25, "name": "b"}, 3, engine=engine, workers=2)
    told = json.loads(Path("told.json").read_text())
    config = {"rounds": 2, "nested.rate": 0.25, "name": "b"}
    run = told["server"][0]
    assert told["server"] == [run, 1, {}, 0, config]
    assert told["cwd"] == str(tmp_path)
    nodes = {client["node"] for client in told["clients"]}
    assert len(nodes - {1}) == 3
    for index, client in enumerate(told["clients"]):
        assert client["node-config"] == {"partition-id": index, "num-partitions": 3}
        assert (client["run"], client["state"], client["run-config"]) == (run, 0, config)


@pytest.mark.parametrize("engine", ["sequential", "local"])
def test_an_apps_modules_come_before_those_of_the_current_folder(tmp_path: Path, engine: str) -> None:
    for name in ("server_app.py", "client_app.py"):
        (tmp_path / name).write_text("raise RuntimeError('this is not the app')")
    app = write_app(tmp_path / "app")
    fedsim.run_app(app, engine=engine, workers=1, clients=2, quiet=True)
    told = json.loads(Path("told.json").read_text())
    assert {client["module"] for client in told["clients"]} == {str(app / "client_app.py")}


def test_apps_with_modules_of_the_same_name_run_in_one_process(tmp_path: Path) -> None:
    import fedsim.server.app as ours

    before = sys.path.copy()
    for name in ("a", "b"):
        server = SERVER.replace("told.json", f"{name}.json")
        app = write_app(tmp_path / name, PYPROJECT.replace("server_app:app", "server.app:app"))
        (app / "server").mkdir()
        (app / "server" / "__init__.py").touch()
        (app / "server" / "app.py").write_text(server)
        fedsim.run_app(app, {"name": name}, engine="sequential", quiet=True)
        assert json.loads(Path(f"{name}.json").read_text())["server"][4]["name"] == name
    assert sys.modules["fedsim.server.app"] is ours
    assert "client_app" not in sys.modules
    assert sys.path == before


@pytest.mark.parametrize(
    ("federations", "clients", "expected"),
    [
        ("", None, 10),
        ("[tool.flwr.federations]\ndefault = 'x'\n[tool.flwr.federations.x]\noptions.num-supernodes = 3", None, 3),
        ("[tool.flwr.federations]\ndefault = 'x'\n[tool.flwr.federations.x]\noptions.num-supernodes = 3", 4, 4),
        ("[tool.flwr.federations]\ndefault = 'x'\n[tool.flwr.federations.x]\naddress = '127.0.0.1:1'", None, 10),
    ],
)  # fmt: skip
def test_how_many_clients_there_are(
    tmp_path: Path, federations: str, clients: int | None, expected: int
) -> None:
    app = write_app(tmp_path / "app", f"{PYPROJECT}\n{federations}")
    run = fedsim.run_app(app, clients=clients, engine="sequential", quiet=True)
    assert len(json.loads(Path("told.json").read_text())["clients"]) == run.manifest["clients"] == expected


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ([], {"rounds": 2, "nested.rate": 0.5, "name": "a"}),
        (["rounds=3 name='b c'"], {"rounds": 3, "nested.rate": 0.5, "name": "b c"}),
        (["rounds=3", 'nested.rate=1e-3 name="d"'], {"rounds": 3, "nested.rate": 0.001, "name": "d"}),
        (["rounds=3", "rounds=4"], {"rounds": 4, "nested.rate": 0.5, "name": "a"}),
        (["over.toml"], {"rounds": 7, "nested.rate": 2.0, "name": "a"}),
    ],
)
def test_run_config_is_read_as_flwr_reads_it(
    tmp_path: Path, options: list[str], config: dict[str, Any]
) -> None:
    (tmp_path / "over.toml").write_text("rounds = 7\n[nested]\nrate = 2.0")
    write_app(tmp_path / "app")
    sets = [part for option in options for part in ("--run-config", option)]
    result = CliRunner().invoke(cli, ["run", "app", "--engine", "sequential", "--out", "r", *sets])
    assert result.exit_code == 0, result.output
    assert json.loads(Path("told.json").read_text())["server"][4] == config
    assert fedsim.load_run("r").manifest["run-config"] == config


# --- what a run leaves --------------------------------------------------------------------------------------


def test_a_run_directory_holds_manifest_and_log(tmp_path: Path) -> None:
    result = subprocess.run(
        [FEDSIM, "run", str(APPS / "numpy_app"), "--engine", "sequential", "--out", "a"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "numpy-app 1.2.0: 5 clients, written to a"
    assert lines[1] == "saved the final model"
    assert lines[-1].startswith("completed in ")
    assert "[ROUND 3/3]" in result.stderr
    assert {path.name for path in Path("a").iterdir()} == {".lock", "manifest.json", "log.txt"}
    log = Path("a/log.txt").read_text()
    assert "[ROUND 3/3]" in log
    assert "saved the final model" in log
    assert "\x1b" not in log
    run = fedsim.load_run("a")
    assert (run.kind, run.status, run.rows, run.accuracy) == ("flower-app", "completed", [], None)
    manifest = run.manifest
    assert manifest["name"] == "numpy-app"
    assert manifest["version"] == "1.2.0"
    assert manifest["run-config"]["local.steps"] == 2
    assert manifest["versions"]["flwr"]
    assert manifest["host"]["cores"] >= 1
    assert manifest["wall-seconds"] > 0
    assert manifest["started"]
    with pytest.raises(Refused, match="is a flower-app; the run of an experiment is needed"):
        _ = run.experiment
    assert "flower-app" in repr(run.kind)


def test_runs_of_apps_and_experiments_stand_in_one_table(tmp_path: Path, tiny: fedsim.Experiment) -> None:
    app = write_app(tmp_path / "app")
    fedsim.run_app(app, engine="sequential", quiet=True)
    fedsim.run(tiny)
    table = fedsim.load_runs("runs/*")
    assert table["kind"].to_list() == ["flower-app", "experiment"]
    assert table["name"].to_list() == ["little", "tiny"]
    assert table["status"].to_list() == ["completed", "completed"]
    assert table["rounds"].to_list() == [None, 3]


def test_json_is_alone_on_stdout_though_server_and_clients_print(tmp_path: Path) -> None:
    write_app(tmp_path / "app")
    for options, stdout in ((["--json"], '{"run": '), (["--quiet"], "")):
        arguments = [FEDSIM, "run", "app", "--clients", "2", "--workers", "1", *options]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert (result.stdout if stdout else result.stdout + result.stderr)[: len(stdout) or None] == stdout
    assert result.stdout == ""
    for run in Path("runs").iterdir():
        assert "the server runs" in (run / "log.txt").read_text()


def test_pythons_logging_and_warnings_are_in_the_log(tmp_path: Path) -> None:
    body = "logging.info('of my own'); warnings.warn('careful'); print('über', file=sys.stderr)"
    server = "import logging, warnings\nlogging.basicConfig(level=logging.INFO)\n" + main_of(body)
    write_app(tmp_path / "app", server=server)
    arguments = [FEDSIM, "run", "app", "--engine", "sequential", "--out", "r", "--quiet"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = [line[20:] for line in Path("r/log.txt").read_text(encoding="utf-8").splitlines()]
    assert "INFO:root:of my own" in log
    assert any(line.endswith("UserWarning: careful") for line in log)
    assert "über" in log


# --- what can't be run --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('no luck\\ntoday')", "ValueError: no luck today (traceback in log.txt)"),
        ("1 / 0", "ZeroDivisionError: division by zero (traceback in log.txt)"),
        ("sys.exit(3)", "SystemExit: 3 (traceback in log.txt)"),
    ],
)
def test_an_app_that_raises_has_failed(tmp_path: Path, body: str, line: str) -> None:
    write_app(tmp_path / "app", server=main_of(body))
    result = CliRunner().invoke(cli, ["run", "app", "--engine", "sequential", "--out", "r", "--quiet"])
    assert (result.exit_code, result.stderr) == (1, f"fedsim: failed: {line}\n")
    log = Path("r/log.txt").read_text()
    assert 'server_app.py", line 6, in main' in log
    assert fedsim.load_run("r").status == "failed"
    assert fedsim.load_run("r").manifest["error"] == line


def test_an_app_may_exit_well_or_be_interrupted(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", server=main_of("sys.exit(0)"))
    assert fedsim.run_app(app, engine="sequential", quiet=True).status == "completed"
    app = write_app(tmp_path / "other", server=main_of("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        fedsim.run_app(app, out="r", engine="sequential", quiet=True)
    assert fedsim.load_run("r").manifest["error"] == "interrupted"


def test_from_python_the_apps_own_error_is_the_cause(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", server=main_of("raise ValueError('no luck')"))
    with pytest.raises(RunFailed, match="ValueError: no luck") as caught:
        fedsim.run_app(app, engine="sequential", quiet=True)
    assert isinstance(caught.value.__cause__, ValueError)


# Which file is changed into what, the options, and what the line must say.
SAYINGS = [
    ("no pyproject", {"pyproject.toml": None}, [], "app 'app': has no pyproject.toml; the folder of a Flower app is needed"),
    ("malformed TOML", {"pyproject.toml": "rounds = "}, [], "app 'app': pyproject.toml: not valid TOML: "),
    ("no UTF-8", {"pyproject.toml": b"\xff"}, [], "app 'app': pyproject.toml: not valid TOML: "),
    ("no Flower app", {"pyproject.toml": "[project]\nname = 'a'\nversion = '1'"}, [], "Missing [tool.flwr.app] section"),
    ("no components", {"pyproject.toml": PYPROJECT.replace("app.components", "app.component")}, [], "Missing [tool.flwr.app.components] section"),
    ("no clientapp", {"pyproject.toml": PYPROJECT.replace("clientapp", "client")}, [], 'Property "clientapp" missing'),
    ("several faults", {"pyproject.toml": "[tool.flwr.app]"}, [], "Missing [project] section (and 2 more)"),
    ("value for a table", {"pyproject.toml": "[project]\nname='a'\nversion='1'\n[tool]\nflwr = 3"}, [], "tool.flwr = 3: must be a table"),
    ("number for a reference", {"pyproject.toml": PYPROJECT.replace('"server_app:app"', "3")}, [], "pyproject.toml: serverapp = 3: must be 'module:attribute'"),
    ("list in the config", {"pyproject.toml": PYPROJECT.replace("rounds = 2", "rounds = [2]")}, [], "The value for key rounds needs to be of type"),
    ("no supernodes", {"pyproject.toml": PYPROJECT + "[tool.flwr.federations]\ndefault = 'x'\nx.options.num-supernodes = 0"}, [], "x.options.num-supernodes = 0: must be an integer of at least 1"),
    ("reference without attribute", {"pyproject.toml": PYPROJECT.replace("server_app:app", "server_app")}, [], "pyproject.toml: serverapp = 'server_app': must be 'module:attribute'"),
    ("missing module", {"server_app.py": None}, [], "serverapp = 'server_app:app': can't be imported: ModuleNotFoundError: No module named 'server_app'"),
    ("missing attribute", {"client_app.py": "a = 1"}, [], "clientapp = 'client_app:app': Unable to load attribute app from module client_app"),
    ("wrong type", {"client_app.py": "app = 1"}, [], "clientapp = 'client_app:app': is a int; a flwr ClientApp is needed"),
    ("wrong way round", {"pyproject.toml": PYPROJECT.replace("server_app:app", "client_app:app")}, [], "serverapp = 'client_app:app': is a ClientApp; a flwr ServerApp is needed"),
    ("missing dependency", {"client_app.py": "\nimport no_such_package"}, [], "ModuleNotFoundError: No module named 'no_such_package' (client_app.py, line 2)"),
    ("module that raises", {"server_app.py": "def f():\n    1 / 0\nf()"}, [], "can't be imported: ZeroDivisionError: division by zero (server_app.py, line 2)"),
    ("module that is no Python", {"server_app.py": "def f(:"}, [], "can't be imported: SyntaxError: invalid syntax"),
    ("module that exits", {"server_app.py": "import sys\nsys.exit(0)"}, [], "can't be imported: SystemExit: 0 (server_app.py, line 2)"),
    ("empty ServerApp", {"server_app.py": "from flwr.serverapp import ServerApp\napp = ServerApp()"}, [], "has no function under @app.main(); one is needed"),
    ("unknown key", {}, ["-c", "round=3"], "run config round = 3: is no key of little; allowed: name, nested.rate, rounds"),
    ("key of an app without config", {"pyproject.toml": PYPROJECT.partition("[tool.flwr.app.config]")[0]}, ["-c", "round=3"], "allowed: none, the app has no [tool.flwr.app.config]"),
    ("no key and value", {}, ["-c", "rounds"], "--run-config 'rounds': must be key=value, separated by spaces, strings in quotes"),
    ("junk between values", {}, ["-c", "rounds=3 and name='b'"], "--run-config \"rounds=3 and name='b'\": must be key=value"),
    ("open quote", {}, ["-c", "name='b rounds=3"], "must be key=value"),
    ("bare word", {}, ["-c", "name=b"], "--run-config 'name=b': The provided configuration string is in an invalid format"),
    ("list", {}, ["-c", "rounds=[1,2]"], "The value for key rounds needs to be of type"),
    ("missing TOML", {}, ["-c", "none.toml"], "--run-config 'none.toml': No such file or directory; a TOML file is needed"),
    ("TOML and values", {}, ["-c", "none.toml", "-c", "rounds=3"], "TOML files cannot be passed alongside key-value pairs"),
    ("negative seed", {}, ["--seed", "-1"], "--seed '-1': must be an integer of at least 0, or os"),
    ("node config of too few", {"nodes.toml": "[[node]]\na = 1\n[[node]]\na = 2"}, ["--node-config", "app/nodes.toml", "--clients", "3"], "node_config: has 2 entries for 3 clients; allowed: one for all, or one for each"),
    ("node config of no tables", {"nodes.toml": "node = 3"}, ["--node-config", "app/nodes.toml"], "--node-config 'app/nodes.toml': node = 3: must be tables [[node]], one for each client"),
    ("list in a node config", {"nodes.toml": "a = [1]"}, ["--node-config", "app/nodes.toml"], "node config: The value for key a needs to be of type"),
    ("missing node config", {}, ["--node-config", "none.toml"], "--node-config 'none.toml': No such file or directory; a TOML file is needed"),
    ("no node config", {}, ["--node-config", "rate"], "--node-config 'rate': must be key=value, separated by spaces, strings in quotes"),
    ("no clients", {}, ["--clients", "0"], "clients = 0: must be at least 1"),
    ("unknown engine", {}, ["--engine", "fast"], "engine = 'fast': there is no such name; allowed: local, ray, sequential"),
    ("negative workers", {}, ["--workers", "-1"], "workers = -1: must be from 0 to 1024"),
    ("address of no cluster", {}, ["--address", "auto"], "address = 'auto': is for engine = 'ray', not 'local'"),
    ("--set", {}, ["--set", "rounds=3"], "--set: is for experiment files; a Flower app takes --run-config"),
    ("taken directory", {}, ["--out", "app"], "exists; a new directory is needed"),
    ("directory below a file", {}, ["--out", "app/server_app.py/run"], "can't be written to"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "options", "saying"), [s[1:] for s in SAYINGS], ids=[s[0] for s in SAYINGS]
)
def test_what_can_not_be_run_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, str | bytes | None], options: list[str], saying: str
) -> None:
    app = write_app(tmp_path / "app")
    for name, content in changes.items():
        (app / name).unlink(missing_ok=True)
        if content is not None:
            (app / name).write_bytes(content.encode() if isinstance(content, str) else content)
    before = [path for path in sorted(tmp_path.rglob("*")) if path.suffix != ".pyc"]
    result = CliRunner().invoke(cli, ["run", "app", *options])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("fedsim: ")
    assert saying in result.stderr.splitlines()[-1]
    after = [path for path in sorted(tmp_path.rglob("*")) if path.suffix != ".pyc"]
    assert [path for path in after if path.name != "__pycache__"] == before


@pytest.mark.parametrize(
    "option", [["--run-config", "rounds=3"], ["--clients", "3"], ["--node-config", "a=3"], ["--seed", "3"]]
)
def test_an_apps_options_are_not_for_experiment_files(tmp_path: Path, option: list[str]) -> None:
    (tmp_path / "a.toml").write_text("rounds = 1")
    result = CliRunner().invoke(cli, ["run", "a.toml", *option])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"fedsim: {option[0]}: is for Flower apps; an experiment file takes --set\n"


# --- fedsim's own repository, and how little is loaded ------------------------------------------------------


def test_fedsims_own_repository_is_an_experiment() -> None:
    changes = "rounds=1 data.clients=6 server.cohort=3 model.name=linear runtime.engine=sequential"
    arguments = ["run", str(ROOT), "--run-config", f"set='{changes}'", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--out", "a"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["round"] == 1
    run = fedsim.run_app(ROOT, {"set": changes, "run-dir": "b"})
    assert (run.kind, run.experiment.data.clients, run.path.name) == ("experiment", 6, "b")
    assert run.rows[0]["loss"] == fedsim.load_run("a").loss
    result = CliRunner().invoke(cli, [*arguments, "--clients", "3"])
    assert "clients = 3: is not for an experiment, which has data.clients" in result.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's
def test_a_bundle_of_fedsims_own_repository_is_whole(tmp_path: Path) -> None:
    """`flwr build` follows no links: `fedsim.server` and its like are then the folders beside `fedsim/`."""
    bundle = build_fab_from_disk(ROOT)
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        archive.extractall(tmp_path)
    assert not (tmp_path / "fedsim" / "server").exists()
    code = "import fedsim.clients.app, fedsim.server.app as a, fedsim.privacy.events; print(a.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == str(tmp_path / "server" / "app.py")


def test_an_app_loads_no_more_of_fedsim_than_it_needs(tmp_path: Path) -> None:
    heavy = ["torch", "matplotlib", "flwr_datasets", "polars", "sklearn", "fedsim.experiment", "fedsim.data"]
    code = (
        f"import sys, fedsim; fedsim.run_app({str(APPS / 'numpy_app')!r}, engine='sequential', quiet=True); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_apps_are_what_flower_itself_accepts() -> None:
    from flwr.cli.config_utils import load_and_validate

    for app in ("numpy_app", "torch_app"):
        load_and_validate(APPS / app / "pyproject.toml")
        assert FlowerApp.read(APPS / app).run_config["out"] == "final.npz"
