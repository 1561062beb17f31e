"""Trackers: what they hear, and that they cost no run."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Refused, Run, RunFailed
from fedsim.cli import app
from fedsim.tracking import numbers_of, tracker_of
from tests.conftest import experiment
from tests.stopping import stopped
from tests.test_simulation import bits


class Notes:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_round(self, run: Run, row: Mapping[str, Any]) -> None:
        assert run.rows[-1] == row
        self.heard.append((run.status, row["round"]))

    def on_end(self, run: Run) -> None:
        self.heard.append(run.status)


class Broken(Notes):
    """Fails in its second round."""

    def on_round(self, run: Run, row: Mapping[str, Any]) -> None:
        super().on_round(run, row)
        if row["round"] == 2:
            raise ConnectionError("nobody answers")


def test_a_tracker_hears_of_each_round_and_of_the_end(tiny: Experiment) -> None:
    notes = Notes()
    run = fedsim.run(tiny, "a", trackers=[notes])
    assert notes.heard == [("running", 1), ("running", 2), ("running", 3), "completed"]
    assert bits(run) == bits(fedsim.run(tiny, "b"))


def test_a_tracker_hears_of_a_run_that_goes_on_and_of_one_that_fails(tiny: Experiment) -> None:
    notes = Notes()
    fedsim.resume(stopped(tiny, "a"), trackers=[notes])
    assert notes.heard == [("running", 3), "completed"]
    notes = Notes()
    with pytest.raises(RunFailed):
        fedsim.run(experiment("faults.crash=1.0"), "b", trackers=[notes])
    assert notes.heard == ["failed"]
    notes = Notes()
    with pytest.raises(Refused):
        fedsim.run(tiny, "b", trackers=[notes])
    assert notes.heard == []


def test_a_tracker_that_fails_costs_no_run(tiny: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    broken, notes = Broken(), Notes()
    assert fedsim.run(tiny, "a", trackers=[broken, notes]).status == "completed"
    assert broken.heard == [("running", 1), ("running", 2)]
    assert len(notes.heard) == 4
    assert "Broken is told nothing more: ConnectionError: nobody answers" in caplog.text


def test_numbers_are_what_can_be_drawn() -> None:
    row = {
        "round": 1,
        "accuracy": 0.5,
        "clients": 3,
        "unit": "client",
        "abandoned": True,
        "failure-reasons": ["x"],
    }
    assert dict(numbers_of(row)) == {"accuracy": 0.5, "clients": 3.0}


@pytest.mark.parametrize(
    ("name", "module", "said"),
    [
        ("mlflow", "mlflow", "--track mlflow: MLflow is not installed; pip install 'fedsim[mlflow]'"),
        ("tensorboard", "tensorboard", "--track tensorboard: TensorBoard is not installed; pip install 'fedsim[tensorboard]'"),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_said_at_once(
    name: str, module: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    Path("e.toml").write_text(experiment().to_toml())
    result = CliRunner().invoke(app, ["run", "e.toml", "--out", "a", "--track", name])
    assert (result.exit_code, result.stderr) == (2, f"fedsim: {said}\n")
    assert not Path("a").exists()


def test_other_trackers_are_none() -> None:
    with pytest.raises(
        Refused, match="--track 'wandb:x': there is no such name; allowed: mlflow, tensorboard"
    ):
        tracker_of("wandb:x")


# --- the real ones -----------------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_every_round_once(tiny: Experiment) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    path = stopped(tiny, "a", trackers=[tracker_of("tensorboard")])
    run = fedsim.resume(path, trackers=[tracker_of("tensorboard")])
    shown = scalars(run.path / "tensorboard")
    assert shown["accuracy"] == [(row["round"], pytest.approx(row["accuracy"])) for row in run.rows]
    assert {"loss", "train-loss", "clients", "seconds"} <= shown.keys()
    Path("e.toml").write_text(tiny.to_toml())
    assert (
        CliRunner().invoke(app, ["run", "e.toml", "--out", "b", "--track", "tensorboard:events"]).exit_code
        == 0
    )
    assert scalars(Path("events/b"))["accuracy"] == shown["accuracy"]


@pytest.mark.slow  # MLflow takes some 10 seconds to load and to make its database
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_has_settings_rounds_and_the_end(tiny: Experiment) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    uri = "sqlite:///tracked.db"
    path = stopped(tiny, "a", trackers=[tracker_of(f"mlflow:{uri}")])
    run = fedsim.resume(path, trackers=[tracker_of(f"mlflow:{uri}")])
    with pytest.raises(RunFailed):
        fedsim.run(experiment("faults.crash=1.0", "rounds=1"), "b", trackers=[tracker_of(f"mlflow:{uri}")])
    client = mlflow.MlflowClient(tracking_uri=uri)
    place = client.get_experiment_by_name("tiny").experiment_id
    (found,) = client.search_runs([place])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "a")
    assert (found.data.params["server.cohort"], found.data.params["model.name"]) == ("4", "linear")
    assert found.data.tags["fedsim.run-id"] == run.manifest["run-id"]
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(row["round"], row["accuracy"]) for row in run.rows]
