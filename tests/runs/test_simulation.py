"""Whole runs: the same bits on every engine, every strategy, and the files of a run."""

import json
import threading
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

import fedsim
from fedsim import Experiment, Refused, RunFailed, catalogue
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.results import RunDirectory
from fedsim.results.directory import new_run_path
from fedsim.tasks.scoring import score
from tests.conftest import experiment
from tests.support.runs import CNN, bits
from tests.support.tasks import task_of, tensors


def test_the_number_of_threads_of_the_caller_leaves_the_bits() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(
                bits(fedsim.run(Experiment.from_toml(CNN, ["runtime.engine=sequential"]), f"{threads}"))
            )
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize("strategy", catalogue.STRATEGIES)
def test_every_strategy_runs_three_rounds_on_digits(strategy: str) -> None:
    setting = experiment(f"server.strategy={strategy}", "client.epochs=3")
    rows = fedsim.run(setting).rows
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert (
        rows[-1]["loss"]
        < score(initial_model(setting, task_of(setting)), task_of(setting), prepare(setting).test).loss
    )


def test_fedavg_of_full_batches_is_gradient_descent_on_all_data() -> None:
    # One step a client on all of its examples, all clients, weighted by examples: the mean of the clients'
    # steps is the step on the union of their data (McMahan et al. 2017, section 2: FedSGD).
    setting = experiment(
        "server.cohort=12", "client.batch-size=100000", "client.learning-rate=0.5", "data.partition=dirichlet"
    )
    data = prepare(setting)
    model = initial_model(setting, task_of(setting))
    parts = [tensors(data, data.client(client).train) for client in range(data.clients)]
    inputs, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(setting.rounds):
        optimizer.zero_grad()
        task_of(setting).loss(model(inputs), labels).backward()
        optimizer.step()
    federated = load_file(fedsim.run(setting).path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(federated[name], tensor.numpy(), rtol=1e-4, atol=1e-6)


def test_weighting_uniform_differs_from_examples_on_uneven_clients() -> None:
    runs = [
        bits(fedsim.run(experiment("data.partition=dirichlet", f"server.weighting={weighting}"), weighting))
        for weighting in ("examples", "uniform")
    ]
    assert runs[0] != runs[1]


def test_the_proximal_term_reaches_the_clients() -> None:
    def change(*overrides: str) -> float:
        setting = experiment("rounds=1", "client.epochs=20", *overrides)
        start = initial_model(setting, task_of(setting)).state_dict()
        end = load_file(fedsim.run(setting).path / "model.safetensors")
        return float(sum(np.square(end[name] - start[name].numpy()).sum() for name in end))

    free = change()
    assert change("server.strategy=fedprox", "server.options.proximal-mu=5.0") < 0.5 * free
    assert change("client.proximal-mu=5.0") < 0.5 * free
    assert change("server.strategy=fedprox", "server.options.proximal-mu=0.0") == free


def test_a_run_directory_is_the_result(tiny: Experiment) -> None:
    run = fedsim.run(tiny, "here")
    names = {path.name for path in Path("here").iterdir()}
    assert names == {
        ".lock",
        "checkpoint",
        "experiment.toml",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
    }
    assert Experiment.load("here/experiment.toml") == run.experiment == tiny
    manifest = json.loads(Path("here/manifest.json").read_text())
    assert manifest["status"] == run.status == "completed"
    assert manifest["data-sha256"] == prepare(tiny).sha256
    assert manifest["versions"]["flwr"]
    assert manifest["wall-seconds"] > 0
    assert manifest["final"] == {k: v for k, v in run.rows[-1].items() if k != "seconds"}
    assert [set(row) for row in run.rows] == [
        {"round", "accuracy", "loss", "train-loss", "clients", "failures", "seconds"}
    ] * 3
    result = score(run.model(), task_of(tiny), prepare(tiny).test)
    assert (result.metrics["accuracy"], result.loss) == (run.accuracy, run.loss)
    assert run.metrics["accuracy"].to_list() == [row["accuracy"] for row in run.rows]


def test_runs_are_loaded_into_a_table(tiny: Experiment) -> None:
    fedsim.run(tiny, "runs/a")
    fedsim.run(experiment("seed=1", "server.evaluate-every=3"), "runs/b")
    Path("runs/no-run").mkdir()
    table = fedsim.load_runs("runs/*")
    assert table["path"].to_list() == ["runs/a", "runs/b"]
    assert table["seed"].to_list() == [0, 1]
    assert (
        table.filter(pl.col("server.evaluate-every") == 3)["accuracy"].item()
        == fedsim.load_run("runs/b").accuracy
    )
    assert fedsim.load_run("runs/b").metrics["accuracy"].null_count() == 2
    assert fedsim.load_runs("nothing/*").is_empty()
    with pytest.raises(Refused, match=r"has no manifest\.json"):
        fedsim.load_run("runs/no-run")


def test_a_run_that_fails_says_so_in_its_manifest() -> None:
    setting = experiment("client.learning-rate=1e38", "client.epochs=3")
    with pytest.raises(
        RunFailed,
        match=r"round \d: diverged: all 4 clients failed in training; the first, client \d+: sent NaN",
    ):
        fedsim.run(setting, "failed")
    run = fedsim.load_run("failed")
    assert run.status == "failed"
    assert "sent NaN or infinity" in run.manifest["error"]
    with pytest.raises(Refused, match=r"has no model\.safetensors; it is failed"):
        run.model()


def test_two_runs_in_a_second_get_two_directories(tiny: Experiment) -> None:
    assert fedsim.run(tiny).path != fedsim.run(tiny).path


def test_clients_evaluate_what_they_held_out() -> None:
    setting = experiment("data.held-out=0.3", "server.client-evaluation=all", "rounds=1")
    run = fedsim.run(setting)
    data, model, task = prepare(setting), run.model(), task_of(setting)
    scores = [(len(own), score(model, task, own)) for own in (data.client(i).held_out for i in range(12))]
    accuracy = sum(n * s.metrics["accuracy"] for n, s in scores) / sum(n for n, _ in scores)
    assert run.rows[-1]["client-accuracy"] == pytest.approx(accuracy)
    each = sorted(s.metrics["accuracy"] for _, s in scores)
    assert run.rows[-1]["client-accuracy-min"] == pytest.approx(each[0])
    assert run.rows[-1]["client-accuracy-median"] == pytest.approx((each[5] + each[6]) / 2)
    assert run.rows[-1]["client-accuracy-p90"] == pytest.approx(each[9] + 0.9 * (each[10] - each[9]))


def test_runs_of_the_same_second_have_directories_of_their_own() -> None:
    everyone = threading.Barrier(8)
    paths: list[Path] = []

    def begin() -> None:
        everyone.wait(timeout=30)
        with new_run_path(None, "a") as path:
            paths.append(path)
            everyone.wait(timeout=30)  # all are under way at once, as runs are
            RunDirectory.begin(path, {"noise": "seeded"}, {})._lock.release()

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(set(paths)) == 8
    assert sorted(Path("runs").absolute().iterdir()) == sorted(paths)


def test_a_default_directory_that_is_taken_gives_the_next_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.results.directory.datetime", Noon)
    stem = "tiny-20200101-120000"
    with new_run_path(None, "tiny") as first:
        assert first == Path("runs").absolute() / stem
        assert fedsim.run(experiment("rounds=1")).path.name == f"{stem}-2"
    with new_run_path(None, "tiny") as again:  # no run has begun there
        assert again == first
    with (
        pytest.raises(Refused, match="exists; a new directory is needed"),
        new_run_path(f"runs/{stem}-2", "tiny"),
    ):
        pass
    assert [path.name for path in Path("runs").iterdir()] == [f"{stem}-2"]


def test_a_refused_run_leaves_no_folder() -> None:
    with pytest.raises(Refused, match=r"server\.cohort = 13"):
        fedsim.run(experiment("server.cohort=13"))
    assert not Path("runs").exists()


class Noon(datetime):
    """A clock that has stopped."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2020, 1, 1, 12, tzinfo=tz)
