"""The commands for runs on a server: what they refuse, and what they say."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import fedsim
from fedsim.cli import app
from tests.conftest import CONFIGS
from tests.support.deployment.directories import files_of
from tests.support.deployment.serving import Server, served
from tests.support.stopping import change, stopped
from tests.support.waiting import later, wait_for

TINY = """
name = "tiny"
rounds = 3
[data]
clients = 12
partition = "iid"
[model]
name = "linear"
[server]
cohort = 4
[runtime]
engine = "sequential"
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr("fedsim.deployment.operator.follow.POLL", 0.02)
    (tmp_path / "tiny.toml").write_text(TINY)
    return Server(tmp_path / "there")


@pytest.fixture
def on(server: Server) -> Iterator[list[str]]:
    with served(server.app) as port:
        yield ["--on", f"127.0.0.1:{port}", "--insecure"]


def call(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def run_when_submitted(server: Server) -> None:
    """Do what a ServerApp does, once a run is there."""
    wait_for(lambda: server.runs, pause=0.01)
    experiment = fedsim.Experiment.from_toml(TINY)
    fedsim.run(experiment, server.folder / server.runs[-1].override_config["run-name"].string)
    server.finish("completed")


def test_a_run_on_a_server_looks_as_one_here(server: Server, on: list[str]) -> None:
    thread = later(lambda: run_when_submitted(server))
    lines = call("run", "tiny.toml", *on, "--out", "copy").stdout.splitlines()
    thread.join()
    assert lines[0] == "tiny: 3 rounds, written to copy"
    assert [line.split(":")[0] for line in lines[1:4]] == ["round 1/3", "round 2/3", "round 3/3"]
    assert lines[4].startswith("accuracy ")
    assert lines[4].endswith(" s: copy")
    assert call("run", "tiny.toml", *on, "--out", "copy", code=2).stderr.startswith(
        "fedsim: --out 'copy': exists"
    )


def test_json(server: Server, on: list[str]) -> None:
    thread = later(lambda: run_when_submitted(server))
    summary = json.loads(call("run", "tiny.toml", *on, "--json").stdout)
    thread.join()
    assert (summary["status"], summary["round"]) == ("completed", 3)
    assert Path(summary["run"]).parent == Path("runs").absolute()


def test_detached_and_followed_later(server: Server, on: list[str]) -> None:
    started = json.loads(call("run", "tiny.toml", *on, "--detach", "--json").stdout)
    assert not Path("runs").exists()
    name = started["run"]
    lines = call("run", "tiny.toml", *on, "--detach").stdout.splitlines()
    assert lines[0].endswith(": started")
    assert [line.split()[:2] for line in lines[1:]] == [["fedsim", "follow"], ["fedsim", "stop"]]
    fedsim.run(fedsim.Experiment.from_toml(TINY), server.folder / name)
    server.runs[0].status.CopyFrom(type(server.runs[0].status)(status="finished", sub_status="completed"))
    assert call("follow", name, *on, "--quiet").output == ""
    assert files_of(Path("runs") / name) == files_of(server.folder / name)


def test_stopped_and_resumed_by_its_copy(server: Server, on: list[str]) -> None:
    name = json.loads(call("run", "tiny.toml", *on, "--detach", "--json").stdout)["run"]
    path = stopped(fedsim.Experiment.from_toml(TINY), str(server.folder / name), after=2)
    change(path, "manifest.json", lambda tree: tree.update(status="interrupted"))
    assert call("stop", name, *on).stdout == f"{name}: ends after the round in flight\n"
    server.finish("failed", "ServerApp failed with exception: interrupted after round 2 of 3")
    said = call("follow", name, *on, "--out", "copy", code=1).stderr
    assert said.startswith(f"fedsim: interrupted after round 2 of 3; fedsim resume {name} --on 127.0.0.1:")

    before = len(server.runs)

    def work() -> None:
        wait_for(lambda: len(server.runs) > before, pause=0.01)  # until the command has asked for it
        fedsim.resume(path)
        server.finish("completed")

    thread = later(work)
    lines = call("resume", "copy", *on).stdout.splitlines()
    thread.join()
    assert lines[0].endswith(": 3 rounds, goes on after round 2 in copy")
    assert files_of(Path("copy")) == files_of(path)
    assert call("resume", "copy", code=2).stderr.startswith("fedsim: run 'copy': is completed")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "tiny.toml", "--keys", "k"], "--keys: is for a run on a server; --on HOST:PORT says which"),
        (["run", "tiny.toml", "--detach"], "--detach: is for a run on a server"),
        (["run", "tiny.toml", "--insecure"], "--insecure: is for a run on a server"),
        (["resume", "r", "--keys", "k"], "--keys: is for a run on a server"),
        (
            ["run", "tiny.toml", "--on", "h:1", "--engine", "ray"],
            "--engine: is for a simulation, and can't stand",
        ),
        (["run", "tiny.toml", "--on", "h:1", "--clients", "3"], "--clients: is for a simulation"),
        (["resume", "r", "--on", "h:1", "--workers", "3"], "--workers: is for a simulation"),
        (["run", ".", "--on", "h:1"], "--on: takes an experiment file"),
        (["run", "tiny.toml", "--on", "h:1", "--detach", "--out", "o"], "--out: is for the copy"),
        (["run", "tiny.toml", "--on", "h:1"], "--keys: the operator's folder is needed"),
        (["run", "tiny.toml", "--on", "h:1", "--insecure"], "--insecure: is for this machine alone"),
        (
            ["run", "tiny.toml", "--on", "h", "--insecure"],
            "--on 'h': must be HOST:PORT, as in 127.0.0.1:9091",
        ),
        (["run", "tiny.toml", "--on", "h:1", "--keys", "nowhere"], "--keys: 'nowhere/ca.pem': No such file"),
        (
            ["follow", "r", "--on", "127.0.0.1:1", "--insecure"],
            "--on 127.0.0.1:1: the server can't be reached",
        ),
        (["stop", "a b", "--on", "127.0.0.1:1", "--insecure"], "run 'a b': must be the name of a run"),
        (["up", "nowhere.toml"], "experiment file 'nowhere.toml': No such file or directory"),
        (["up", "tiny.toml", "--out", "."], "--out '.': exists"),
        (["up", "tiny.toml", "--keep", "."], "--keep '.': File exists; a new folder is needed"),
        (["up", "tiny.toml", "--clients", "3"], "server.cohort = 4: must be at most data.clients = 3"),
    ],
)
def test_bad_input_is_one_line(server: Server, arguments: list[str], said: str, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    result = call(*arguments, code=2)
    assert result.stderr.startswith(f"fedsim: {said}")
    assert len(result.stderr.splitlines()) == 1
    assert set(tmp_path.rglob("*")) == before


def test_a_file_that_is_refused_never_leaves(server: Server, on: list[str]) -> None:
    assert "rounds" in call("run", "tiny.toml", *on, "--set", "rounds=0", code=2).stderr
    assert server.runs == []


def test_the_configuration_of_the_demonstration() -> None:
    experiment = fedsim.Experiment.load(CONFIGS / "deploy.toml")
    assert (experiment.data.clients, experiment.server.cohort) == (5, 5)
