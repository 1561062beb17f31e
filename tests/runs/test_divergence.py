"""Runs whose losses or models are no finite numbers, and rounds in which no client is left."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedsim
from fedsim import Experiment, RunFailed
from fedsim.cli.display import PlainLines, summary_of
from fedsim.compare.runs import ComparedRun
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.streams import numpy_stream
from tests.conftest import experiment
from tests.support.runs import bits
from tests.support.stopping import stopped
from tests.support.tasks import task_of

# One step of this rate, and logits no longer fit into float32, though the weights do.
FAR = (
    "rounds=3",
    "client.learning-rate=1e37",
    "client.steps=1",
    "client.batch-size=1000",
    "server.cohort=12",
)
GO_ON = "server.on-divergence=go-on"
ENDLESS = "model.name=tests.support.models:endless"


def too_large(model: Path) -> bool:
    """Return whether a linear model's cross-entropy of the test set, in float64, is a sum beyond float32."""
    weights = {name: array.astype(np.float64) for name, array in load_file(model).items()}
    assert all(np.isfinite(array).all() for array in weights.values())
    test = prepare(experiment()).test
    logits = test.x.reshape(-1, 64) @ weights["1.weight"].T + weights["1.bias"]
    losses = (
        logits.max(axis=1) - np.take_along_axis(logits, test.y[:, None], axis=1)[:, 0]
    )  # where all are far apart
    return bool(losses.sum() > np.finfo(np.float32).max)


def test_a_loss_that_is_not_finite_is_null_and_ends_the_run() -> None:
    with pytest.raises(RunFailed) as failed:
        fedsim.run(experiment(*FAR), "run")
    run = fedsim.load_run("run")
    assert str(failed.value) == run.manifest["error"]
    assert str(failed.value).startswith("round 1: diverged: the test loss is ")
    assert "'go-on' goes on" in str(failed.value)
    (row,) = run.rows
    assert (row["loss"], row["diverged"], row["clients"]) == (None, True, 12)
    assert math.isfinite(row["train-loss"])  # of the first model
    assert (run.status, run.loss) == ("failed", None)
    with pytest.raises(RunFailed) as again:  # a resumed run comes to the same end, and not further
        fedsim.resume("run")
    assert str(again.value) == str(failed.value)
    assert bits_of_rows(run) == bits_of_rows(fedsim.load_run("run"))


def bits_of_rows(run: fedsim.Run) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.rows]


def test_a_run_may_go_on_with_the_last_finite_model(capsys: pytest.CaptureFixture[str]) -> None:
    run = fedsim.run(experiment(*FAR, GO_ON), "run", PlainLines("tiny"))
    assert [(row["loss"], row["diverged"]) for row in run.rows] == [(None, True)] * 3
    assert run.rows[1]["failures"] > 0  # of clients whose loss at their first step is not finite
    assert all("sent NaN or infinity as train-loss" in line for line in run.rows[1]["failure-reasons"])
    assert too_large(run.path / "model.safetensors")
    first, *_ = (line for line in capsys.readouterr().out.splitlines() if line.startswith("round 1/3"))
    assert "loss nan" in first
    assert "diverged" in first
    assert "completed" in run.status
    assert summary_of(run).startswith("accuracy ")
    assert "loss" not in ComparedRun.of(run).finals


def test_a_finite_run_says_nothing_of_it() -> None:
    run = fedsim.run(experiment("rounds=1"), "run")
    assert "diverged" not in run.rows[0]
    assert bits(run) == bits(fedsim.run(experiment("rounds=1", GO_ON), "other"))


def test_with_the_systems_noise_the_reason_is_private(capsys: pytest.CaptureFixture[str]) -> None:
    local = ("privacy.local-dp={noise-multiplier=1.0, delta=1e-3, clip=0.5}", "privacy.noise=os", ENDLESS)
    with pytest.raises(RunFailed, match=r"private/log\.txt"):
        fedsim.run(experiment(*local), "stops", PlainLines("tiny"))
    run = fedsim.load_run("stops")
    assert (
        "diverged: the test loss is" in json.loads((run.path / "private/manifest.json").read_text())["error"]
    )
    assert run.private_rows[0]["diverged"] is True
    assert (run.rows[0]["loss"], "diverged" in run.rows[0]) == (None, False)
    assert "diverged" not in (run.path / "manifest.json").read_text() + capsys.readouterr().out
    whole = fedsim.run(experiment(*local, GO_ON), "goes-on")
    assert [row["diverged"] for row in whole.private_rows] == [True] * 3


# --- rounds without survivors -------------------------------------------------------------------------------

DROPOUT = ("rounds=4", "data.clients=6", "faults.dropout=0.7")


def left_in(setting: Experiment, round_: int) -> int:
    """Return how many of a round's cohort don't drop out: each draws one number, of a stream of its own."""
    cohort = numpy_stream(setting.seed, "cohort", round_=round_).choice(6, size=4, replace=False)
    draws = [numpy_stream(setting.seed, "faults", round_=round_, client=int(c)).random() for c in cohort]
    return sum(draw >= setting.faults.dropout for draw in draws)


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])  # summed, and gathered
def test_a_round_in_which_all_drop_out_is_an_empty_round_also_when_resumed(strategy: str) -> None:
    seed = next(
        s
        for s in range(100)
        if [left_in(experiment(*DROPOUT, f"seed={s}"), r) > 0 for r in (1, 2, 3)] == [1, 1, 0]
    )
    setting = experiment(*DROPOUT, f"seed={seed}", f"server.strategy={strategy}")
    run = fedsim.run(setting, "whole")
    assert [row["clients"] for row in run.rows] == [left_in(setting, round_) for round_ in range(1, 5)]
    second, third = run.rows[1:3]
    assert (third["clients"], third["failures"], third["loss"]) == (0, 4, second["loss"])
    assert all(line.endswith("dropped out (faults.dropout)") for line in third["failure-reasons"])
    assert bits(fedsim.resume(stopped(setting, "parts"))) == bits(run)


def test_a_run_without_survivors_keeps_its_first_model() -> None:
    setting = experiment("rounds=2", "faults.nan=1.0")
    run = fedsim.run(setting, "run")
    assert [(row["clients"], row["failures"], "diverged" in row) for row in run.rows] == [(0, 4, False)] * 2
    first = initial_model(setting, task_of(setting)).state_dict()
    for name, array in load_file(run.path / "model.safetensors").items():
        np.testing.assert_array_equal(array, first[name].numpy())
