"""Real processes, killed for real."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fedsim
from fedsim import Experiment, interruption
from fedsim.streams import numpy_stream
from tests.support.runs import bits
from tests.support.sessions import FINE, kill_session, session
from tests.support.waiting import LONGEST, wait_for

pytestmark = pytest.mark.usefixtures("sigint")

FEDSIM = Path(sys.executable).with_name("fedsim")
TEXT = """
name = "short-rounds"
rounds = 40
[data]
clients = 12
partition = "iid"
[model]
name = "linear"
[client]
steps = 4
[server]
cohort = 4
strategy = "fedadam"
[runtime]
workers = 2
"""


@pytest.fixture(autouse=True)
def _config(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(TEXT)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `fedsim` in a session of its own, whose processes are gone at the end."""
    started = []

    def starter(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [FEDSIM, *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        kill_session(process)


def rows(path: Path) -> int:
    """Return the number of whole rounds that a run has written."""
    metrics = path / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


# --- kills ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kills_at_random_moments_leave_the_bits(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    # Half of the kills come while the process starts, half some rounds later: in training, or in writing.
    kills = 20
    rounds = f"rounds={30 + 10 * kills}"  # more than the kills leave time for
    whole = fedsim.run(Experiment.load("short.toml", [rounds, "runtime.engine=sequential"]), "whole")
    run, draw = tmp_path / "killed", numpy_stream(kills, "kills")
    startup, a_round = 2.0, 0.0  # seconds; measured as we go

    def go_on() -> subprocess.Popen[str]:
        return (
            start("resume", run, "--json")
            if run.exists()
            else start("run", "short.toml", "--set", rounds, "--out", run, "--json")
        )

    for _ in range(kills):
        before, began = rows(run), time.perf_counter()
        process = go_on()
        if draw.random() < 0.5:
            more, moment = 1, began + startup * draw.uniform(0.1, 1.1)
        else:
            wait_for(lambda: rows(run) > before, pause=FINE)  # noqa: B023
            startup, more = time.perf_counter() - began, int(draw.integers(2, 6))
            first = time.perf_counter()
            wait_for(lambda: rows(run) >= before + more, pause=FINE)  # noqa: B023
            a_round = max((time.perf_counter() - first) / more, a_round)
            moment = time.perf_counter() + draw.uniform(0, 2 * a_round)
        # The machine may be faster than it was: no kill takes more than a few rounds.
        wait_for(lambda: time.perf_counter() >= moment or rows(run) >= before + more + 2, pause=FINE)  # noqa: B023
        assert process.poll() is None, process.communicate()
        kill_session(process)
        assert not run.exists() or fedsim.load_run(run).status == "killed"
    out, err = (process := go_on()).communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["status"] == "completed"
    assert bits(fedsim.load_run(run)) == bits(whole)


# --- signals -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_the_run_after_the_round(
    number: signal.Signals, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    run = tmp_path / "a"
    process = start("run", "short.toml", "--out", run)
    wait_for(lambda: rows(run) >= 2, pause=FINE)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=LONGEST)
    done = rows(run)
    assert process.returncode == 1
    assert err == f"fedsim: interrupted after round {done} of 40; fedsim resume {run} goes on\n"
    assert "ending after this round; a second signal ends at once" in out
    assert fedsim.load_run(run).status == "interrupted"
    assert not any(row["failures"] for row in fedsim.load_run(run).rows)  # the workers went on, too
    assert session(process.pid) == []


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    run = tmp_path / "a"
    (tmp_path / "long.toml").write_text(TEXT.replace("steps = 4", "steps = 1000000000"))
    process = start("run", "long.toml", "--out", run)
    assert process.stdout is not None
    assert process.stdout.readline().endswith("written to a\n")
    time.sleep(0.5)  # the first round is under way
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "ending after this round; a second signal ends at once\n"
    assert process.poll() is None
    time.sleep(2 * interruption.TOGETHER)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=LONGEST)
    assert (process.returncode, err) == (1, "fedsim: interrupted\n")
    assert (fedsim.load_run(run).status, rows(run)) == ("interrupted", 0)
    assert session(process.pid) == []


# --- two processes -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_process_writes_a_run_and_its_workers_end_with_it(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    run = tmp_path / "a"
    process = start("run", "short.toml", "--set", "rounds=100000", "--out", run)
    wait_for(lambda: rows(run) >= 1, pause=FINE)
    assert len(session(process.pid)) == 3
    second = subprocess.run([FEDSIM, "resume", run], capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr == f"fedsim: run '{run}': process {process.pid} is writing it; one at a time\n"
    assert fedsim.load_run(run).status == "running"
    process.kill()  # it alone: the workers find out by themselves
    wait_for(lambda: not session(process.pid), pause=FINE)
    assert fedsim.load_run(run).status == "killed"
