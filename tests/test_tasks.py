"""Tasks in runs: regression, and a user's own task and metric, on engines, under mechanisms, through sweeps and reports."""

from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Run
from fedsim.cli import app
from fedsim.data import prepare
from fedsim.models import initial_model
from tests.stopping import stopped
from tests.tasks import task_of

TEXT = """
    name = "reg"
    rounds = 4
    [data]
    source = "diabetes"
    clients = 8
    partition = "iid"
    held-out = 0.2
    [task]
    name = "regression"
    offset = 150.0
    scale = 80.0
    [model]
    name = "linear"
    [client]
    learning-rate = 0.05
    [server]
    cohort = 4
    client-evaluation = "all"
    [runtime]
    engine = "sequential"
"""
COUNTS = ("task.name=tests.toys.counts:Counts", "task.ceiling=3.0", "client.learning-rate=0.01")
WITHIN = ("task.name=tests.toys.within:Within", "task.tolerance=60.0")


def regression(*overrides: str) -> Experiment:
    return Experiment.from_toml(TEXT, overrides)


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return str(result.output)


def bits(run: Run) -> tuple[list[dict[str, Any]], bytes]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in run.rows]
    return rows, (run.path / "model.safetensors").read_bytes()


def test_full_batches_of_all_clients_are_gradient_descent_on_the_mean_squared_error() -> None:
    setting = regression(
        "server.cohort=8", "client.batch-size=1000", "data.held-out=0", "server.client-evaluation=none"
    )
    data = prepare(setting)
    start = initial_model(setting, task_of(setting)).state_dict()
    parts = [data.client(client).train for client in range(8)]
    x = np.concatenate([part.x for part in parts]).astype(float)
    t = (np.concatenate([part.y for part in parts if part.y is not None]) - 150.0) / 80.0
    w, b = start["1.weight"].numpy()[0].astype(float), float(start["1.bias"])
    for _ in range(setting.rounds):  # d/dw mean (x w + b - t)^2 = 2 mean (x w + b - t) x
        r = x @ w + b - t
        w, b = w - 0.05 * 2 * r @ x / len(x), b - 0.05 * 2 * r.mean()
    trained = load_file(fedsim.run(setting, "run").path / "model.safetensors")
    np.testing.assert_allclose(trained["1.weight"].numpy()[0], w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(float(trained["1.bias"]), b, rtol=1e-4, atol=1e-6)


def test_rows_have_scikit_learns_numbers_of_the_final_model() -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    run = fedsim.run(regression(), "run")
    data, task, model = prepare(run.experiment), task_of(run.experiment), run.model()
    row = run.rows[-1]

    def predicted(examples: Any) -> np.ndarray:
        out: np.ndarray = 80.0 * model(task.tensors(examples)[0]).detach().numpy()[:, 0] + 150.0
        return out

    own = predicted(data.test)
    assert data.test.y is not None
    assert row["rmse"] == pytest.approx(root_mean_squared_error(data.test.y, own), rel=1e-5)
    assert row["mae"] == pytest.approx(mean_absolute_error(data.test.y, own), rel=1e-5)
    assert row["r2"] == pytest.approx(r2_score(data.test.y, own), rel=1e-4)
    assert row["loss"] == pytest.approx((row["rmse"] / 80.0) ** 2, rel=1e-5)
    clients = [data.client(client).held_out for client in range(8)]
    each = [root_mean_squared_error(part.y, predicted(part)) for part in clients]
    sizes = [len(part) for part in clients]
    assert row["client-rmse"] == pytest.approx(np.average(each, weights=sizes), rel=1e-5)
    assert row["client-rmse-max"] == pytest.approx(max(each), rel=1e-5)
    assert row["client-rmse-median"] == pytest.approx(np.median(each), rel=1e-5)
    assert not {"client-r2", "client-rmse-min", "accuracy"} & set(row)
    assert (run.headline, run.accuracy) == (row["rmse"], None)


@pytest.mark.parametrize("overrides", [(), COUNTS, WITHIN], ids=["regression", "own task", "own metric"])
def test_engines_and_a_resumed_run_have_the_same_bits(overrides: tuple[str, ...]) -> None:
    whole = fedsim.run(regression(*overrides), "whole")
    local = fedsim.run(regression(*overrides, "runtime.engine=local", "runtime.workers=2"), "local")
    assert bits(local) == bits(whole)
    assert bits(fedsim.resume(stopped(regression(*overrides), "stopped"))) == bits(whole)
