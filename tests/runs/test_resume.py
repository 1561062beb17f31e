"""Resumed runs: the same bits as uninterrupted ones."""

import json
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Interrupted, Refused, RunFailed, catalogue
from fedsim.cli import app
from fedsim.results.checkpoint import read_checkpoint
from fedsim.runtime import AppSpec, SequentialGrid
from fedsim.server import checkpoint
from tests.conftest import experiment
from tests.support.grids import Forgetful, run_over
from tests.support.runs import bits
from tests.support.stopping import Killed, Listener, change, die, rewrite, signal_myself, stopped


@pytest.mark.parametrize("strategy", catalogue.STRATEGIES)
def test_every_strategy_goes_on_with_the_same_bits(strategy: str) -> None:
    setting = experiment(f"server.strategy={strategy}", "rounds=4")
    reference = bits(fedsim.run(setting, "whole"))
    listener = Listener()
    run = fedsim.resume(stopped(setting, "parts"), listener)
    assert bits(run) == reference
    assert listener.heard == [(Path("parts").absolute(), 4, 2), 3, 4]
    assert run.status == "completed"


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_without_the_strategys_state_the_bits_are_others(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = experiment(f"server.strategy={strategy}", "rounds=4")
    reference = bits(fedsim.run(setting, "whole"))
    monkeypatch.setattr(checkpoint, "load_strategy_state", lambda *_: None)
    assert bits(fedsim.resume(stopped(setting, "parts"))) != reference


def test_changing_attributes_of_a_strategy_are_in_the_catalogue() -> None:
    # The arrays that FedOpt and QFedAvg keep are set anew by each `configure_train`, from the model.
    anew = {"fedadagrad", "fedadam", "fedyogi", "qfedavg"}
    for name, entry in catalogue.STRATEGIES.items():
        seen: list[dict[str, Any]] = []

        class Watching(entry.load()):  # type: ignore[misc]
            def aggregate_train(self, server_round: int, replies: Any) -> Any:
                result = super().aggregate_train(server_round, replies)
                seen.append(dict(vars(self)))  # noqa: B023
                return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(catalogue.StrategyEntry, "load", lambda self: Watching)
            fedsim.run(experiment(f"server.strategy={name}"), f"watched-{name}")
        changed = {key for key in seen[0] if any(seen[0][key] is not later[key] for later in seen)}
        assert changed == set(entry.state or ()) | ({"current_arrays"} if name in anew else set()), name


@pytest.mark.parametrize("engine", ["sequential", pytest.param("local", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("drifting")
def test_clients_go_on_with_their_states(engine: str) -> None:
    setting = experiment("rounds=6", f"runtime.engine={engine}", "runtime.workers=2")
    reference = bits(fedsim.run(setting, "whole"))
    path = stopped(setting, "parts", after=3)
    assert (path / "checkpoint" / "clients.sqlite").exists()
    with pytest.raises(Killed):
        fedsim.resume(path, Listener(5, die), engine="sequential")
    assert bits(fedsim.resume(path)) == reference


@pytest.mark.usefixtures("drifting")
def test_without_the_clients_states_the_bits_are_others() -> None:
    class Unrestored(SequentialGrid):
        def restore_states(self, states: Mapping[int, RecordDict]) -> None:
            """Leave clients without any."""

    setting = experiment("rounds=6")
    reference = bits(fedsim.run(setting, "whole"))
    path = stopped(setting, "parts", after=3)

    def grid(spec: AppSpec) -> SequentialGrid:
        return Unrestored(replace(spec, reference="tests.support.apps:drifting"))

    assert bits(run_over(grid, setting, path, resume=True)) != reference


def test_clients_without_a_state_need_no_database(tiny: Experiment) -> None:
    fedsim.run(tiny, "a")
    assert [path.name for path in Path("a/checkpoint").iterdir()] == ["last-round.safetensors"]


@pytest.mark.slow
def test_the_engine_and_the_workers_may_change() -> None:
    setting = experiment("rounds=4", "server.strategy=fedadam")
    reference = bits(fedsim.run(setting, "whole"))
    assert bits(fedsim.resume(stopped(setting, "a"), engine="local", workers=2)) == reference
    path = stopped(setting, "b")
    text = (path / "experiment.toml").read_text()
    (path / "experiment.toml").write_text(text.replace('engine = "sequential"', 'engine = "local" # faster'))
    assert bits(fedsim.resume(path)) == reference
    with pytest.raises(Refused, match=r"runtime\.engine = 'fast': must be 'local', 'ray' or 'sequential'"):
        fedsim.resume(stopped(setting, "c"), engine="fast")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("server.patience=2", "client.learning-rate=3.0", "data.partition=dirichlet"),
        ("server.target-accuracy=0.8",),
        ("server.evaluate-every=3", "server.sampling=poisson", "server.client-evaluation=cohort", "data.held-out=0.3"),
    ],
    ids=["patience", "target", "sparse evaluation"],
)  # fmt: skip
def test_every_round_may_be_the_last_of_a_session(overrides: tuple[str, ...]) -> None:
    setting = experiment("rounds=10", *overrides)
    whole = fedsim.run(setting, "whole")
    if not overrides[0].startswith("server.evaluate"):
        assert 2 < len(whole.rows) < 10  # it stopped early, and must again
    for after in range(1, len(whole.rows) + 1):
        path = stopped(setting, f"after-{after}", after)
        assert bits(fedsim.resume(path)) == bits(whole)


def test_the_command_goes_on_and_says_from_where(tiny: Experiment) -> None:
    whole = fedsim.run(tiny, "whole")
    lines = CliRunner().invoke(app, ["resume", str(stopped(tiny, "a"))]).stdout.splitlines()
    assert lines[0] == "tiny: 3 rounds, goes on after round 2 in a"
    assert lines[1].startswith(f"round 3/3: accuracy {whole.accuracy:.2%}, loss {whole.loss:.4f}, ")
    assert lines[1].endswith(", 0.0 s left")
    assert lines[2].startswith(f"accuracy {whole.accuracy:.2%} (best ")
    result = CliRunner().invoke(app, ["resume", str(stopped(tiny, "b")), "--json", "--engine", "sequential"])
    assert json.loads(result.stdout)["status"] == "completed"
    assert bits(fedsim.load_run("a")) == bits(fedsim.load_run("b")) == bits(whole)


def test_before_the_first_checkpoint_the_run_begins_again(tiny: Experiment) -> None:
    reference = bits(fedsim.run(tiny, "whole"))
    path = stopped(tiny, "a", after=1)
    shutil.rmtree(path / "checkpoint")
    listener = Listener()
    assert bits(fedsim.resume(path, listener)) == reference
    assert listener.heard[0][2] == 0


def test_lines_after_the_checkpoint_are_cut(tiny: Experiment) -> None:
    reference = bits(fedsim.run(tiny, "whole"))
    path = stopped(tiny, "a")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "loss": 1.0}\n{"round": 4, "lo')
    assert bits(fedsim.resume(path)) == reference


def test_a_failed_run_can_be_tried_again(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = bits(fedsim.run(tiny, "whole"))

    def full() -> None:
        raise OSError("no space left")

    with pytest.raises(
        fedsim.RunFailed, match="no space left; whole rounds are safe: fedsim resume"
    ) as failed:
        fedsim.run(tiny, "a", Listener(2, full))
    assert fedsim.load_run("a").status == "failed"
    assert fedsim.load_run("a").manifest["error"] == str(failed.value)
    run = fedsim.resume("a")
    assert bits(run) == reference
    assert (run.status, "error" in run.manifest) == ("completed", False)


def test_the_manifest_adds_up_the_sessions(tiny: Experiment) -> None:
    path = stopped(tiny, "a")
    first = read_checkpoint(path)
    assert first is not None
    assert first.wall_seconds > 0
    rewrite(path, wall_seconds=1000.0)
    run = fedsim.resume(path)
    (session,) = run.manifest["resumed"]
    assert session["from-round"] == 3
    assert session["versions"] == run.manifest["versions"]
    assert session["started"] >= run.manifest["started"]
    assert run.manifest["wall-seconds"] > 1000.0
    assert run.manifest["final"]["round"] == 3
    assert run.manifest["run-id"] == first.run_id


def test_other_versions_are_reported_and_recorded(tiny: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    path = stopped(tiny, "a")
    change(path, "manifest.json", lambda manifest: manifest["versions"].update(torch="1.0", numpy="0.9"))
    run = fedsim.resume(path)
    (said,) = [record.getMessage() for record in caplog.records]
    torch, numpy = (run.manifest["resumed"][0]["versions"][name] for name in ("torch", "numpy"))
    assert said.endswith(
        f"other versions than it began with: numpy {numpy} (was 0.9), torch {torch} (was 1.0)"
    )
    assert run.manifest["versions"]["torch"] == "1.0"


def test_a_users_model_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "users_model.py").write_text(
        "from torch import nn\ndef build(task):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs.size))\n"
    )
    with monkeypatch.context() as beside:
        beside.syspath_prepend(str(tmp_path / "own"))
        path = stopped(experiment("model.name=users_model:build"), "a")
    assert fedsim.load_run(path).manifest["modules"] == {"users_model": str(tmp_path / "own")}
    monkeypatch.delitem(sys.modules, "users_model")
    monkeypatch.setattr("sys.path", sys.path.copy())
    assert fedsim.resume(path).status == "completed"


# --- a user's strategy ---------------------------------------------------------------------------------


def test_a_users_strategy_gives_and_takes_its_state() -> None:
    setting = experiment("rounds=4", "server.strategy=tests.support.strategies:Kept")
    reference = bits(fedsim.run(setting, "whole"))
    assert bits(fedsim.resume(stopped(setting, "parts"))) == reference


@pytest.mark.parametrize(
    ("strategy", "missing"),
    [("Averaging", "no state_dict and no load_state_dict"), ("HalfKept", "no load_state_dict")],
)
def test_a_strategy_that_keeps_its_state_to_itself(strategy: str, missing: str) -> None:
    setting = experiment(f"server.strategy=tests.support.strategies:{strategy}")
    assert fedsim.run(setting, "whole").manifest["resumable"] is False
    path = stopped(setting, "a")
    assert not (path / "checkpoint").exists()
    reason = (
        f"server.strategy = 'tests.support.strategies:{strategy}' has {missing}, so its state can't be kept"
    )
    assert fedsim.load_run(path).manifest["not-resumable"] == reason
    with pytest.raises(Refused, match=f"can't be resumed: {reason}"):
        fedsim.resume(path)
    with pytest.raises(Interrupted, match=f"after round 2 of 3; can't be resumed: {reason}"):
        fedsim.run(setting, "b", Listener(2, signal_myself(signal.SIGTERM)))


def test_a_state_that_can_not_be_kept_fails_the_run() -> None:
    setting = experiment("server.strategy=tests.support.strategies:Unkeepable")
    with pytest.raises(
        RunFailed, match="round 2: checkpoint: state/strategy/count is a set; arrays, numbers"
    ):
        fedsim.run(setting, "a")
    assert read_checkpoint(Path("a")).round == 1  # type: ignore[union-attr]


def test_a_grid_that_keeps_no_states_makes_a_run_that_is_not_resumable(tiny: Experiment) -> None:
    with pytest.raises(Killed):
        run_over(Forgetful, tiny, "a", Listener(2, die))
    with pytest.raises(Refused, match="can't be resumed: the clients' states are with Flower's nodes"):
        fedsim.resume("a")
