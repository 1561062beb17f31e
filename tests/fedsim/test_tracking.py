"""Trackers: the calls that they get, and that their failures end no run."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Refused, Run, RunFailed
from fedsim.cli import app
from fedsim.progress import Silent
from fedsim.results.run import numbers_of
from fedsim.sweeps import Pruning, State
from fedsim.sweeps.pool import Ended, Order
from fedsim.sweeps.worker import play
from fedsim.tracking import packed, tracker_of
from tests.conftest import experiment
from tests.support.runs import bits
from tests.support.stopping import stopped


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
        fedsim.run(experiment("client.learning-rate=1e38"), "b", trackers=[notes])
    assert notes.heard[-1] == "failed"
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
def test_a_tracker_that_is_not_installed_is_reported_at_once(
    name: str, module: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    Path("e.toml").write_text(experiment().to_toml())
    result = CliRunner().invoke(app, ["run", "e.toml", "--out", "a", "--track", name])
    assert (result.exit_code, result.stderr) == (2, f"fedsim: {said}\n")
    assert not Path("a").exists()


def test_other_trackers_are_none() -> None:
    with pytest.raises(
        Refused, match="--track 'wandb': there is no such name; allowed: mlflow, tensorboard, module:Class"
    ):
        tracker_of("wandb")


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


def test_a_session_is_read_by_tensorboard_after_those_before_it(tiny: Experiment) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    earlier = (
        Path("events/a") / f"events.out.tfevents.{int(time.time()) + 1}.z"
    )  # of another process, just now
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    time.sleep(1.0)
    fedsim.run(tiny, "a", trackers=[tracker_of("tensorboard:events")])
    names = sorted(path.name for path in earlier.parent.iterdir())
    assert (len(names), names[0]) == (2, earlier.name)


@pytest.mark.slow  # MLflow takes some 10 seconds to load and to make its database
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_has_settings_rounds_and_the_end(tiny: Experiment) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    uri = "sqlite:///tracked.db"
    path = stopped(tiny, "a", trackers=[tracker_of(f"mlflow:{uri}")])
    run = fedsim.resume(path, trackers=[tracker_of(f"mlflow:{uri}")])
    with pytest.raises(RunFailed):
        fedsim.run(
            experiment("model.name=tests.support.models:telling", "rounds=1"),
            "b",
            trackers=[tracker_of(f"mlflow:{uri}")],
        )
    client = mlflow.MlflowClient(tracking_uri=uri)
    place = client.get_experiment_by_name("tiny").experiment_id
    (found,) = client.search_runs([place])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "a")
    assert (found.data.params["server.cohort"], found.data.params["model.name"]) == ("4", "linear")
    assert found.data.tags["fedsim.run-id"] == run.manifest["run-id"]
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(row["round"], row["accuracy"]) for row in run.rows]


# --- in sweeps ---------------------------------------------------------------------------------------------


class Diary:
    """Writes down what it hears, where a test can read it, and how many were made of it."""

    def __init__(self, path: str = "diary.txt") -> None:
        self.path = Path(path).absolute()
        self.heard = 0

    def on_round(self, run: Run, row: Mapping[str, Any]) -> None:
        self.heard += 1
        self._write(f"{run.path.name} {row['round']} {self.heard}")

    def on_end(self, run: Run) -> None:
        self._write(f"{run.path.name} {run.status}")

    def _write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")


def test_each_run_of_a_sweep_has_a_copy_of_its_own(tiny: Experiment) -> None:
    copies = packed([Diary()])
    for name in ("a", "b"):
        assert play(Order(name, Path(name), tiny.to_toml(), None, copies), Silent()) == Ended(State.COMPLETED)
    said = [
        line for name in "ab" for line in (f"{name} 1 1", f"{name} 2 2", f"{name} 3 3", f"{name} completed")
    ]
    assert Path("diary.txt").read_text().splitlines() == said
    assert bits(Run("a")) == bits(fedsim.run(tiny, "c"))


def test_trackers_that_can_not_be_copied_are_refused_before_anything_is_written(tiny: Experiment) -> None:
    class Local(Diary):
        pass

    with pytest.raises(Refused, match=r"tracker Local: can't be copied to other processes: .*Local"):
        fedsim.sweep(tiny, out="s", trackers=[Local()])
    main = type("Main", (Diary,), {"__module__": "__main__"})
    sys.modules["__main__"].Main = main  # type: ignore[attr-defined]
    try:
        with pytest.raises(Refused, match="tracker Main: is of the program's own file; put it into a module"):
            fedsim.sweep(tiny, out="s", trackers=[main()])
    finally:
        del sys.modules["__main__"].Main  # type: ignore[attr-defined]
    assert not Path("s").exists()


def test_ones_own_tracker_is_named_by_its_module() -> None:
    assert isinstance(tracker_of("tests.fedsim.test_tracking:Notes"), Notes)
    for text, said in (
        ("tests.fedsim.test_tracking:No", "--track 'tests.fedsim.test_tracking:No' can't be loaded: "),
        (
            "tests.fedsim.test_tracking:numbers_of",
            "--track 'tests.fedsim.test_tracking:numbers_of': is a function; a fedsim.tracking.Tracker is needed",
        ),
        ("builtins:list", "--track 'builtins:list': is the class list; a fedsim.tracking.Tracker is needed"),
    ):
        with pytest.raises(Refused) as refused:
            tracker_of(text)
        assert str(refused.value).startswith(said)


def test_a_sweep_reports_trackers_that_are_not_installed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not there
    Path("e.toml").write_text(experiment().to_toml())
    result = CliRunner().invoke(app, ["sweep", "e.toml", "--out", "s", "--track", "mlflow"])
    said = "fedsim: --track mlflow: MLflow is not installed; pip install 'fedsim[mlflow]'\n"
    assert (result.exit_code, result.stderr) == (2, said)
    assert not Path("s").exists()


@pytest.mark.slow
def test_a_sweep_tracks_every_run_in_its_workers(tiny: Experiment) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    grid = {"client.learning-rate": [0.01, 0.1, 0.3]}
    trackers = [tracker_of("tensorboard"), tracker_of("tensorboard:events"), Diary()]
    done = fedsim.sweep(tiny, grid=grid, prune=Pruning(), out="s", workers=2, trackers=trackers)
    assert sorted(len(run.rows) for run in done.runs) == [1, 1, 3]
    for run in done.runs:
        expected = [(row["round"], pytest.approx(row["accuracy"])) for row in run.rows]
        assert scalars(run.path / "tensorboard")["accuracy"] == expected
        assert scalars(Path("events", run.path.name))["accuracy"] == expected
    lines = Path("diary.txt").read_text().splitlines()
    assert (
        sorted(line.split()[-1] for line in lines if not line[-1].isdigit())
        == ["completed"] + ["interrupted"] * 3
    )


@pytest.mark.slow  # MLflow takes some 10 seconds to load and to make its database
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_runs_side_by_side_share_a_database_of_mlflow(tiny: Experiment) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    uri = f"sqlite:///{Path('tracked.db').absolute()}"
    done = fedsim.sweep(tiny, seeds=4, out="s", workers=2, trackers=[tracker_of(f"mlflow:{uri}")])
    assert "told nothing more" not in Path("s/sweep.log").read_text()
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert {(run.info.run_name, run.info.status) for run in found} == {
        (run.path.name, "FINISHED") for run in done.runs
    }
    for run in found:
        assert len(client.get_metric_history(run.info.run_id, "accuracy")) == 3
