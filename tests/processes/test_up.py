"""`fedsim up`: real processes over TLS, and none of them left, however it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment
from fedsim.cli import app
from fedsim.deployment.local import started
from tests.support.deployment.directories import files_of
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

TINY = """
name = "tiny"
rounds = 3
[data]
clients = 3
partition = "iid"
[model]
name = "linear"
[server]
cohort = 3
timeout = 60
"""
LONG = TINY.replace("rounds = 3", "rounds = 10000")
SEEDED = [f"--set=privacy.dp-fedavg.{it}" for it in ("clip=1.0", "noise-multiplier=1.0", "delta=1e-3")]
MARK = "FEDSIM_TEST_MARK"
WAIT = 400.0  # seconds, on a machine that is busy with other things


class Up:
    """A `fedsim up` under way, and the processes that it starts, theirs included."""

    def __init__(self, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        # A shell's background jobs ignore SIGINT, and so would this.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{code}from fedsim.cli import app; app()", "up", *arguments],
            env={**os.environ, MARK: self.mark, "PYTHONPATH": str(Path(fedsim.__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> dict[int, str]:
        """Return the command lines of those that run, but not `up` itself."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                    continue
                if line := (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode():
                    found[int(folder.name)] = line
        return {pid: line for pid, line in found.items() if pid != self.process.pid}

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something, for as long as `up` itself runs; once it has ended, for the others' end."""
        end, was_running = time.monotonic() + WAIT, self.process.poll() is None
        while not reached():
            assert time.monotonic() < end, f"waited {WAIT} s in vain; there run {self.pids()}"
            if was_running and self.process.poll() is not None:
                raise AssertionError(self.process.communicate())
            time.sleep(0.05)

    def kill(self) -> None:
        for pid in [self.process.pid, *self.pids()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "long.toml").write_text(LONG)

    def begin(*arguments: str) -> Up:
        started.append(Up(*arguments))
        return started[-1]

    yield begin
    for up in started:
        up.kill()


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.output


def rows_of(path: str) -> int:
    file = Path(path) / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def test_the_same_weights_as_by_the_local_engine(start: Callable[..., Up]) -> None:
    options = [*SEEDED, "--set=privacy.noise=seeded"]
    up = start("tiny.toml", "--out", "up", "--json", *options)
    out, err = up.process.communicate(timeout=WAIT)
    assert up.process.returncode == 0, err
    assert up.pids() == {}
    overrides = [option.removeprefix("--set=") for option in options]
    here = fedsim.run(Experiment.from_toml(TINY, overrides), "here")
    said = json.loads(out)
    assert (said["status"], said["accuracy"]) == ("completed", here.accuracy)
    there = files_of(Path("up"))
    assert there["model.safetensors"] == files_of(Path("here"))["model.safetensors"]
    assert there.get("ledger.jsonl") == files_of(Path("here")).get("ledger.jsonl")
    assert fedsim.load_run("up").manifest["deployment"]["address"].startswith("127.0.0.1:")


def test_a_signal_ends_it_after_the_round_in_flight(start: Callable[..., Up]) -> None:
    up = start("long.toml", "--out", "up")
    up.until(lambda: rows_of("up") > 0)
    assert len(up.pids()) >= 6  # the server, its SuperExec and ServerApp, three clients
    up.process.send_signal(signal.SIGINT)
    out, err = up.process.communicate(timeout=WAIT)
    assert up.process.returncode == 1
    assert "ending after this round" in out
    assert err == f"fedsim: interrupted after round {rows_of('up')} of 10000\n"
    assert up.pids() == {}
    assert fedsim.load_run("up").status == "interrupted"


def test_a_signal_before_the_first_round_ends_it_at_once(start: Callable[..., Up]) -> None:
    up = start("long.toml", "--out", "up", "--keep", "keep")
    up.until(lambda: len(up.pids()) > 1)
    up.process.send_signal(signal.SIGTERM)
    _, err = up.process.communicate(timeout=WAIT)
    assert (up.process.returncode, err) == (1, "fedsim: interrupted before the first round\n")
    assert up.pids() == {}
    assert not Path("up").exists()
    assert Path("keep/logs/server.log").exists()


def test_killed_it_leaves_no_process(start: Callable[..., Up]) -> None:
    up = start("long.toml", "--out", "up")
    up.until(lambda: rows_of("up") > 0)
    up.process.kill()
    up.process.communicate()
    up.until(lambda: not up.pids())


def test_a_killed_client_is_reported_and_a_killed_server_ends_the_command(start: Callable[..., Up]) -> None:
    up = start("long.toml", "--out", "up", "--set", "server.timeout=20")
    up.until(lambda: rows_of("up") > 0)
    (client,) = (pid for pid, line in up.pids().items() if "client-1 " in line)
    os.kill(client, signal.SIGKILL)
    before = rows_of("up")
    up.until(lambda: rows_of("up") > before + 1)
    (server,) = (pid for pid, line in up.pids().items() if " server --keys" in line)
    os.kill(server, signal.SIGKILL)
    out, err = up.process.communicate(timeout=WAIT)
    assert up.process.returncode == 1
    assert "client-1 ended with -9: " in out
    assert err.startswith("fedsim: failed: server ended with -9: ")
    up.until(lambda: not up.pids())


def test_a_run_is_let_go_of_stopped_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigint: None
) -> None:
    """All commands for runs on a server, over TLS; at the end the bits are those of the local engine."""
    rounds = 8
    (tmp_path / "tiny.toml").write_text(TINY.replace("rounds = 3", f"rounds = {rounds}"))
    (tmp_path / "party").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(fedsim.__file__).parents[1]))
    with started(tmp_path / "party", 3) as party:
        on = ["--on", str(party.remote.address), "--keys", str(party.keys)]
        name = json.loads(call("run", "tiny.toml", *on, "--detach", "--json"))["run"]
        copy = f"runs/{name}"

        def let_go() -> None:
            wait_for(lambda: rows_of(copy), WAIT)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=let_go)
        thread.start()
        said = call("follow", name, *on, code=1)
        thread.join()
        assert f"stopped following the run, which goes on; fedsim follow {name} --on" in said
        assert call("stop", name, *on) == f"{name}: ends after the round in flight\n"
        said = call("follow", name, *on, code=1)
        assert f"interrupted after round {rows_of(copy)} of {rounds}; fedsim resume {name} --on" in said
        assert 1 <= rows_of(copy) < rounds
        call("stop", name, *on, code=2)
        call("resume", copy, *on, "--quiet")
        call("resume", copy, *on, code=2)

        second = json.loads(call("run", "tiny.toml", *on, "--detach", "--json", "--set", "rounds=10000"))[
            "run"
        ]
        call("resume", second, *on, code=2)
        assert call("stop", second, *on, "--now").startswith(
            f"{second}: stopped; fedsim resume {second} --on"
        )
        call("follow", second, *on, code=1)
    here = fedsim.run(Experiment.load("tiny.toml"), "here")
    there = fedsim.load_run(copy)
    assert [row["accuracy"] for row in there.rows] == [row["accuracy"] for row in here.rows]
    assert files_of(there.path)["model.safetensors"] == files_of(here.path)["model.safetensors"]
    assert len(there.manifest["resumed"]) == 1
