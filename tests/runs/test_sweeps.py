"""Sweeps over real worker processes: each run has the bits of a single run, also after kills."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Refused, RunFailed, Sweep
from fedsim.cli import app
from fedsim.cli.sweep_view import competing
from fedsim.sweeps import Pruning, State
from fedsim.sweeps.points import grid_of
from fedsim.sweeps.pool import Ended, Order
from fedsim.sweeps.progress import SilentSweep
from fedsim.sweeps.run import make_plan
from fedsim.sweeps.schedule import Schedule
from fedsim.sweeps.state import SweepDirectory
from fedsim.sweeps.worker import play
from tests.conftest import experiment
from tests.support.runs import bits
from tests.support.sessions import FINE, kill_session, session
from tests.support.stopping import Killed, Listener, change, die, signal_myself, stopped
from tests.support.waiting import LONGEST, wait_for

ROOT = Path(__file__).parents[2]
SWEEP = """
[sweep]
name = "short"
seeds = 2
config = "base.toml"
[[sweep.arms]]
name = "plain"
grid = {"client.learning-rate" = [0.05, 0.1]}
[[sweep.arms]]
name = "private"
set = ["privacy.dp-fedavg={noise-multiplier = 1.0, delta = 1e-2, clip = 1.0}"]
"""
BASE = """
name = "base"
rounds = 30
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
"""


@pytest.fixture(autouse=True)
def _configs(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "short.toml").write_text(SWEEP)


def all_bits(sweep: Sweep) -> dict[str, Any]:
    """Return what two sweeps must have alike: every run's bits and its ledger."""
    ledgers = {run.path.name: run.path / "ledger.jsonl" for run in sweep.runs}
    return {
        run.path.name: (
            bits(run),
            ledgers[run.path.name].read_bytes() if ledgers[run.path.name].exists() else b"",
        )
        for run in sweep.runs
    }


@pytest.mark.slow
def test_a_run_that_fails_is_noted_and_the_rest_goes_on(tmp_path: Path) -> None:
    setting = experiment()
    done = fedsim.sweep(setting, grid={"client.learning-rate": [0.1, 1e38]}, seeds=2, out="s", workers=2)
    assert list(done.states.values()) == [State.COMPLETED] * 2 + [State.FAILED] * 2
    assert list(done.failures) == list(done.states)[2:]
    assert all(why.startswith("round 1: diverged: ") for why in done.failures.values())
    second = fedsim.load_run(f"s/runs/{list(done.states)[1]}")
    alone = fedsim.run(experiment("seed=1", "client.learning-rate=0.1"), "alone")
    assert bits(second) == bits(alone)
    assert second.manifest["experiment-sha256"] == alone.manifest["experiment-sha256"]
    # Nothing is left to do: no worker is started, no failure tried again.
    (tmp_path / "s" / "sweep.log").unlink()
    again = CliRunner().invoke(app, ["sweep", "--resume", "s", "--json"])
    assert again.exit_code == 1
    assert json.loads(again.stdout) == {
        "sweep": str(tmp_path / "s"),
        "runs": 4,
        "completed": 2,
        "pruned": {},
        "failed": done.failures,
    }
    assert (tmp_path / "s" / "sweep.log").read_bytes() == b""


def test_other_files_at_the_path(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for path in ("full", "base.toml"):
        with pytest.raises(
            Refused, match=rf"--out '.*{path}': exists and is no sweep; a new directory is needed"
        ):
            fedsim.sweep("short.toml", out=path)
    with pytest.raises(Refused, match=r"sweep '.*full': has no sweep.json; a sweep directory is needed"):
        fedsim.resume_sweep("full")
    with pytest.raises(
        Refused, match="engine = 'local': can't play runs side by side; allowed: sequential, ray"
    ):
        fedsim.sweep("short.toml", out="new", engine="local")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "fedsim: sweep: a CONFIG.toml, or --resume DIR, is needed\n"),
        (
            ["--resume", "s", "--seeds", "2"],
            "fedsim: --resume 's': can't stand beside --seeds; the plan is there\n",
        ),
        (
            ["--resume", "s", "a.toml"],
            "fedsim: --resume 's': can't stand beside CONFIG.toml; the plan is there\n",
        ),
        (["base.toml", "--prune-after", "3"], "fedsim: --prune-after: is for --prune\n"),
        (
            ["--resume", "s", "--prune"],
            "fedsim: --resume 's': can't stand beside --prune; the plan is there\n",
        ),
        (
            ["base.toml", "--prune"],
            "fedsim: --prune: no two settings compete: none of an arm differ in more than their seed, data, faults "
            "and privacy\n",
        ),
        (
            ["base.toml", "--grid", "rounds="],
            "fedsim: --grid rounds: is empty; one value or more are needed\n",
        ),
    ],
)
def test_commands_that_are_refused(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["sweep", *arguments])
    assert (result.exit_code, result.stderr) == (2, said)


# --- states, from what is in the directory ---------------------------------------------------------------


def a_sweep(path: Path) -> Sweep:
    """Return a sweep of four runs of which none has begun."""
    from fedsim.sweeps.run import make_plan
    from fedsim.sweeps.state import SweepDirectory

    with SweepDirectory.create(path, make_plan([experiment()], {"rounds": ("2", "3", "4")}, [], None)):
        pass
    return Sweep(path)


def test_a_directory_reports_the_state_of_its_runs(tmp_path: Path) -> None:
    found = a_sweep(tmp_path / "s")
    fedsim.run(experiment("rounds=2"), tmp_path / "s/runs/tiny-rounds-2-s0")
    second = stopped(experiment("rounds=3"), str(tmp_path / "s/runs/tiny-rounds-3-s0"))
    change(second, "manifest.json", lambda manifest: manifest.update(status="running"))  # as a kill leaves it
    assert list(found.states.values()) == [State.COMPLETED, State.INTERRUPTED, State.WAITING]
    change(second, "manifest.json", lambda m: m.update(status="failed", error="no space"))
    assert found.failures == {"tiny-rounds-3-s0": "no space"}
    change(found.path, "sweep.json", lambda tree: tree["runs"][2].update(state="failed", reason="lost"))
    assert found.failures == {"tiny-rounds-3-s0": "no space", "tiny-rounds-4-s0": "lost"}
    assert repr(found) == f"Sweep({str(found.path)!r}, 1 completed, 2 failed)"


def test_one_process_at_a_time_and_the_same_plan(tmp_path: Path) -> None:
    from fedsim.sweeps.state import SweepDirectory

    a_sweep(tmp_path / "s")
    with (
        SweepDirectory.open(tmp_path / "s"),
        pytest.raises(Refused, match=rf"sweep '.*s': process {os.getpid()} is writing it; one at a time"),
    ):
        fedsim.resume_sweep("s")
    with pytest.raises(
        Refused, match=r"--out '.*s': holds another sweep; a new directory, or the same plan, is needed"
    ):
        fedsim.sweep(experiment(), grid={"rounds": [2, 3]}, out="s")
    change(tmp_path / "s", "sweep.json", lambda tree: tree["arms"][0].update(experiment="name = 'tiny'"))
    with pytest.raises(Refused, match="tiny-rounds-2-s0 would be another experiment"):
        fedsim.resume_sweep("s")


# --- one run of a sweep ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fedadam", "tests.support.strategies:Averaging"])
def test_a_run_under_way_ends_with_the_same_bits_also_if_it_keeps_no_checkpoints(strategy: str) -> None:
    setting = experiment(f"server.strategy={strategy}", "rounds=4")
    reference = bits(fedsim.run(setting, "whole"))
    order = Order("a", stopped(setting, "a"), setting.to_toml())
    listener = Listener()
    assert play(order, listener) == Ended(State.COMPLETED)
    assert listener.heard[0][2] == (2 if strategy == "fedadam" else 0)  # rounds made before
    assert bits(fedsim.load_run("a")) == reference


@pytest.mark.parametrize("strategy", ["fedadam", "tests.support.strategies:Averaging"])
def test_a_run_pauses_at_its_rung_and_goes_on_with_the_same_bits(strategy: str) -> None:
    setting = experiment(f"server.strategy={strategy}")
    reference = bits(fedsim.run(setting, "whole"))
    rung, end = (Order("a", Path("a"), setting.to_toml(), until) for until in (2, None))
    for _ in range(
        2
    ):  # also if it is at the rung already, as after a kill in the instant before it could say so
        assert play(rung, Listener()) == Ended(State.PAUSED)
        assert (fedsim.load_run("a").status, len(fedsim.load_run("a").rows)) == ("interrupted", 2)
        assert not Path("a/stop").exists()
    assert play(end, Listener()) == Ended(State.COMPLETED)
    assert bits(fedsim.load_run("a")) == reference


def played(path: str, prune: Pruning, chance: random.Random, *, kill_after: int = 10**9) -> Sweep:
    """Play a sweep in this process, in any order; after so many runs without a trace of the rest."""
    grid = grid_of({"client.learning-rate": [0.001, 0.01, 0.1, 0.3]}, "grid")
    plan = make_plan([experiment("rounds=5")], grid, [], 2, prune=prune)
    with SweepDirectory.create(Path(path).absolute(), plan) as directory:
        schedule = Schedule(directory, SilentSweep(), retry_failed=False)
        parts = schedule.begin()
        made = 0
        while parts and made < kill_after:
            assert made < 100, "a sweep of eight runs doesn't end"
            run, until = parts.pop(chance.randrange(len(parts)))
            order = Order(run.name, directory.run_path(run.name), run.experiment.to_toml(), until)
            listener = Listener(2, die) if made == kill_after - 1 else Listener()
            try:
                ended = play(order, listener)
            except Killed:
                change(order.path, "manifest.json", lambda manifest: manifest.update(status="running"))
                break
            directory.note(run.name, ended.state, ended.reason)
            parts += schedule.ended(run.name)
            made += 1
    return Sweep(path)


def test_settings_are_pruned_the_same_in_any_order_and_after_any_kill() -> None:
    prune = Pruning(factor=2, after=1)
    whole = played("whole", prune, random.Random(0))
    assert competing(whole) == ["pruning: tiny: 4 settings compete, after rounds 1, 2, 4 of 5"]
    assert sorted(len(run.rows) for run in whole.runs) == [1] * 4 + [2] * 2 + [5] * 2
    assert list(whole.states.values()).count(State.PRUNED) == 6
    chance = random.Random(1)
    for kill_after in (1, 3, 4, 2, 10**9):
        parts = played("parts", prune, chance, kill_after=kill_after)
    assert standings(parts) == standings(whole)
    assert parts.pruned == whole.pruned
    frame = fedsim.load_runs("parts").filter(status="pruned")
    assert sorted(frame["rounds-done"]) == [1] * 4 + [2] * 2
    assert set(frame["error"]) == set(whole.pruned.values())
    shown = CliRunner().invoke(app, ["compare", "parts", "--json"])
    (row,) = json.loads(shown.stdout)["rows"]
    assert (row["seeds"], row["pruned"], row["not-completed"]) == (2, 0, 0)
    text = CliRunner().invoke(app, ["compare", "parts"], env={"COLUMNS": "200"}).stdout
    assert "6 runs were pruned early by a sweep, and no part of any mean." in text
    assert text.count("pruned: no privacy, learning-rate=") == 3


@pytest.mark.usefixtures("sigint")
def test_a_signal_in_the_last_round_leaves_a_run_completed(tiny: Experiment) -> None:
    for path, after, state in (("a", 2, State.INTERRUPTED), ("b", 3, State.COMPLETED)):
        ended = play(Order(path, Path(path), tiny.to_toml()), Listener(after, signal_myself(signal.SIGTERM)))
        assert ended == Ended(state)


def test_workers_that_can_not_start_fail_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(RunFailed, match=r"worker process ended with 1 before it was ready; see .*sweep\.log"):
        fedsim.sweep(experiment(), out="s")
    assert Sweep("s").states == {"tiny-s0": State.WAITING}


# --- kills -------------------------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `fedsim` in a session of its own, whose processes are gone at the end."""
    started = []

    def starter(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from fedsim.cli import app; app()", *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        kill_session(process)


def rounds_in(path: Path) -> int:
    """Return the whole rounds of all runs of a sweep."""
    return sum(file.read_bytes().count(b"\n") for file in path.glob("runs/[!.]*/metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.usefixtures("sigint")
def test_a_sweep_that_is_killed_twice_and_interrupted_ends_with_the_same_bits(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    whole = fedsim.sweep("short.toml", out="whole", workers=2)
    assert set(whole.states.values()) == {State.COMPLETED}
    assert len(whole.runs) == 6
    path = tmp_path / "parts"
    command = ("sweep", "short.toml", "--out", "parts", "--workers", "2")
    process = start(*command)
    wait_for(lambda: rounds_in(path) >= 20, pause=FINE)
    kill_session(process)  # all of it
    process = start(*command)
    wait_for(lambda: rounds_in(path) >= 80, pause=FINE)
    process.kill()  # it alone: the workers find out by themselves
    wait_for(lambda: State.RUNNING not in Sweep(path).states.values(), pause=FINE)
    assert State.INTERRUPTED in Sweep(path).states.values()
    process = start(*command)
    wait_for(lambda: rounds_in(path) >= 120, pause=FINE)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=LONGEST)
    done = list(Sweep(path).states.values()).count(State.COMPLETED)
    assert process.returncode == 1
    assert (
        said == f"fedsim: interrupted: {done} of 6 runs are completed; fedsim sweep --resume {path} goes on\n"
    )
    assert session(process.pid) == []
    process = start("sweep", "--resume", "parts", "--json")
    out, said = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, said
    assert json.loads(out) == {"sweep": str(path), "runs": 6, "completed": 6, "pruned": {}, "failed": {}}
    assert all_bits(Sweep(path)) == all_bits(whole)


PRUNED = """
[sweep]
name = "pruned"
seeds = 2
config = "base.toml"
[sweep.grid]
"client.learning-rate" = [0.003, 0.03, 0.1, 0.3]
[sweep.prune]
factor = 2
after = 5
[[sweep.arms]]
name = "plain"
[[sweep.arms]]
name = "private"
set = ["privacy.dp-fedavg={delta = 1e-2, clip = 1.0}"]
grid = {"privacy.dp-fedavg.epsilon" = [20, 40]}
"""


def standings(sweep: Sweep) -> dict[str, Any]:
    """Return what two sweeps with pruning must have alike: what became of each run, and all that it wrote."""
    found = {}
    for run in sweep.runs:
        ledger, weights = run.path / "ledger.jsonl", run.path / "model.safetensors"
        found[run.path.name] = (
            sweep.states[run.path.name],
            (
                run.status,
                run.manifest.get("error"),
                run.manifest.get("pruned-after"),
                run.manifest["epsilon"],
            ),
            [{name: value for name, value in row.items() if name != "seconds"} for row in run.rows],
            ledger.read_bytes() if ledger.exists() else b"",
            weights.read_bytes() if weights.exists() else b"",
        )
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("sigint")
def test_a_pruned_sweep_that_is_killed_and_interrupted_ends_as_the_uninterrupted_one(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "pruned.toml").write_text(PRUNED)
    whole = fedsim.sweep("pruned.toml", out="whole", workers=1)
    states = list(whole.states.values())
    # Of each four settings two go on from round 5, and one from round 10; seeds go together.
    assert (states.count(State.COMPLETED), states.count(State.PRUNED), len(states)) == (6, 18, 24)
    lengths = sorted(len(run.rows) for run in whole.runs)
    assert lengths == [5] * 12 + [10] * 6 + [30] * 6
    path = tmp_path / "parts"
    command = ("sweep", "pruned.toml", "--out", "parts", "--workers", "2")
    for rounds in (60, 150, 240):
        process = start(*command)
        wait_for(lambda r=rounds: rounds_in(path) >= r, pause=FINE)  # type: ignore[misc]
        if rounds == 150:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=LONGEST)
            assert process.returncode == 1
        else:
            kill_session(process)
    process = start("sweep", "--resume", "parts", "--workers", "3", "--json")
    out, said = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, said
    told = json.loads(out)
    assert (told["runs"], told["completed"], told["failed"]) == (24, 6, {})
    assert told["pruned"] == whole.pruned
    assert standings(Sweep(path)) == standings(whole)
    # Who went on has the bits of a run that never paused.
    went = next(
        run for run in whole.runs if run.status == "completed" and (run.path / "ledger.jsonl").exists()
    )
    alone = fedsim.run(Experiment.load(went.path / "experiment.toml"), "alone")
    assert bits(alone) == bits(went)
    assert (alone.path / "ledger.jsonl").read_bytes() == (went.path / "ledger.jsonl").read_bytes()
    # Nothing is left to do; and a run that was pruned can go on by itself.
    assert fedsim.resume_sweep("parts").states == whole.states
    name = next(iter(whole.pruned))
    assert fedsim.resume(path / "runs" / name).status == "completed"
    assert "pruned-after" not in fedsim.load_run(path / "runs" / name).manifest


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_run_alone(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    path = tmp_path / "s"
    process = start("sweep", "short.toml", "--out", "s", "--workers", "1")
    wait_for(lambda: rounds_in(path) >= 5, pause=FINE)
    (worker,) = [pid for pid in session(process.pid) if pid != process.pid]
    os.kill(worker, signal.SIGKILL)
    out, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 1
    assert list(Sweep(path).failures.values()) == ["its worker process ended with -9"]
    assert "6 runs: 5 completed, 1 failed" in out
    process = start("sweep", "--resume", "s", "--retry-failed", "--quiet")
    assert process.communicate(timeout=LONGEST) == ("", "")
    assert process.returncode == 0
    assert set(Sweep(path).states.values()) == {State.COMPLETED}


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_cluster_plays_the_clients() -> None:
    pytest.importorskip("ray")
    done = fedsim.sweep(experiment("runtime.workers=2"), engine="ray", out="s")
    assert bits(done.runs[0]) == bits(fedsim.run(experiment(), "alone"))
