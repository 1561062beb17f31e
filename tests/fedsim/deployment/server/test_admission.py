"""What the operator's key lets one do: start runs that the server admits, list them, stop them; nothing is executed or read."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from typer.testing import CliRunner

from fedsim import Experiment
from fedsim.cli import app as cli
from fedsim.deployment.bundle import installed_code, make_bundle
from fedsim.deployment.server.admission import Admission
from fedsim.experiment import NAMES_CODE
from fedsim.flower.paths import CONTROL, LIST, START, STOP
from tests.conftest import experiment
from tests.support.deployment.bundles import files_of, zipped


def asked(path: str, body: bytes, *only: Experiment) -> tuple[int, str, list[bytes]]:
    """Return the answer's status and reason, and the bodies that reached Flower."""
    reached: list[bytes] = []
    sent: list[Any] = []

    async def flower(scope: Any, receive: Any, send: Any) -> None:
        reached.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Admission(flower, only)({"type": "http", "path": path, "headers": []}, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]).get("error", ""), reached


def starting(text: str, fab: bytes | None = None, overrides: str = "", **more: Any) -> bytes:
    content = fab or make_bundle()
    config = {"experiment": text, "set": overrides, "run-name": "a", "code": installed_code()}
    request = StartRunRequest(
        fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
        override_config=user_config_to_proto(config),
        **more,
    )
    return request.SerializeToString()


def refusal(body: bytes, *only: Experiment) -> str:
    """Return the reason for which a request to start a run is refused, before Flower has seen it."""
    status, reason, reached = asked(START, body, *only)
    assert (status, reached) == (403, [])
    assert reason.isprintable()
    assert len(reason) < 500
    return reason


def test_an_experiment_by_names_of_the_catalogue_is_started_as_it_was_sent(tiny: Experiment) -> None:
    body = starting(tiny.to_toml(), overrides="rounds=2")
    assert asked(START, body) == (200, "", [body])
    body = starting(tiny.to_toml(), series_id=7)  # a run is resumed
    assert asked(START, body) == (200, "", [body])


SHELLS = [
    'server.strategy="os:system" server.options.command="touch executed"',
    'server.strategy="subprocess:getoutput" server.options.cmd="touch executed"',
    'server.strategy="sys:exit"',
    'model.name="os:system"',
    *(f'{key}="antigravity:fly"' for key in NAMES_CODE if "*" not in key),
    '\'transforms=[{name="top-k"}, {name="antigravity:fly"}]\'',
]


@pytest.mark.parametrize(
    "only", [(), (experiment(), experiment("server.strategy=tests.support.strategies:Kept"))]
)
@pytest.mark.parametrize("overrides", SHELLS)
def test_the_operators_key_gives_no_shell(overrides: str, only: tuple[Experiment, ...]) -> None:
    reason = refusal(starting(experiment().to_toml(), overrides=overrides), *only)
    assert "is a function of the caller's choice; a server calls it only if it was started with" in reason
    assert "antigravity" not in sys.modules  # not even imported
    assert not Path("executed").exists()


def test_code_is_for_the_servers_own_list() -> None:
    own = experiment("server.strategy=tests.support.strategies:Kept")
    body = starting(own.to_toml())
    assert asked(START, body, experiment(), own) == (200, "", [body])
    for change in ("rounds=9", "server.strategy=fedavg"):
        reason = refusal(starting(own.to_toml(), overrides=change), own)
        assert reason == "its experiment is none of those that this server was started with (--only)"


SOURCES = ["npz", "text-json", "huggingface", "own"]


@pytest.mark.parametrize("source", SOURCES)
def test_files_of_the_servers_own_are_for_its_own_list(source: str, tmp_path: Path) -> None:
    there, gone = tmp_path / "there.npz", tmp_path / "gone.npz"
    there.write_bytes(b"secret")
    said = []
    for path in (there, gone):
        named = Experiment.from_toml(f"[data]\nsource = '{source}'\npath = '{path}'\npartition = 'iid'\n")
        said.append(refusal(starting(named.to_toml())).replace(path.name, "X"))
        body = starting(named.to_toml())
        assert asked(START, body, named) == (200, "", [body])
    assert said[0] == said[1]  # nothing tells which of the files is there
    assert said[0].endswith(
        "is of the caller's choice; a server reads it only if it was started with this experiment (--only)"
    )


OTHERS = {
    "a path": (
        starting("/etc/some.toml"),
        "its experiment is the path '/etc/some.toml'; TOML text is needed",
    ),
    "no experiment": (starting("rounds = 0\n"), "rounds = 0"),
    "no TOML": (starting("[["), "not valid TOML"),
    "no overrides": (starting("rounds = 1\n", overrides="rounds='"), "No closing quotation"),
    "brackets": (starting("a = " + "[" * 100_000), "nested too deeply"),
    "a bundle with modules": (
        starting("", zipped({**files_of(make_bundle()), "probe.py": b"import os"})),
        "its bundle is not one of fedsim's: it holds files of its own: 'probe.py'",
    ),
    "an app of a hub": (starting("", app_spec="@some/app"), "app_spec: is nothing that a run of fedsim has"),
    "another request": (b"\xff", "is no request to start a run"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_is_started(name: str) -> None:
    body, said = OTHERS[name]
    assert said in refusal(body)


def test_an_operator_lists_and_stops_runs_and_does_nothing_else() -> None:
    for path in (LIST, STOP):
        assert asked(path, b"x") == (200, "", [b"x"])
    for name in (
        "register-node",
        "add-app",
        "create-federation",
        "start-automation",
        "stream-logs",
        "START-RUN",
        "",
    ):
        status, reason, reached = asked(CONTROL + name, b"x")
        assert (status, reached) == (403, [])
        assert reason == "an operator may start, list and stop runs, and nothing else"
    assert asked("/v1/fleet/take", b"x") == (200, "", [b"x"])


def test_a_servers_list_must_be_readable(tmp_path: Path) -> None:
    options = ["--state", str(tmp_path / "state"), "--insecure", "--only", str(tmp_path / "none.toml")]
    result = CliRunner().invoke(cli, ["server", *options])
    assert result.exit_code == 2
    assert "none.toml': No such file or directory" in result.output
    assert not (tmp_path / "state").exists()
