"""Tasks in runs: regression, and a user's own task and metric, on engines, under mechanisms, through sweeps and reports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from safetensors.torch import load_file
from typer.testing import CliRunner

import fedsim
from fedsim import Experiment, Refused
from fedsim.cli import app
from fedsim.compare import compare
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.tasks import Metric
from tests.support.tasks import task_of

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


DP_SGD = ("privacy.dp-sgd.noise-multiplier=1.0", "privacy.dp-sgd.delta=1e-3", "privacy.dp-sgd.clip=1.0")
CENTRAL = ("noise-multiplier=1.0", "delta=1e-2", "clip=0.5")
NO_LOSSES = ("data.held-out=0", "server.client-evaluation=none")
MECHANISMS = {
    "dp-sgd": DP_SGD,
    "dp-fedavg": [f"privacy.dp-fedavg.{key}" for key in CENTRAL],
    "dp-ftrl": [
        *(f"privacy.dp-ftrl.{key}" for key in (*CENTRAL, "min-separation=2")),
        "server.sampling=b-min-sep",
    ],
    "local-dp": [f"privacy.local-dp.{key}" for key in CENTRAL],
    "secagg": ["privacy.secagg.clip=4.0", *NO_LOSSES],
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_regression_under_every_mechanism(mechanism: str) -> None:
    run = fedsim.run(regression(*MECHANISMS[mechanism], "rounds=2"), "run")
    assert set(run.rows[-1]) >= {"rmse", "mae", "r2", "loss"}
    assert np.isfinite(run.rows[-1]["rmse"])
    assert "accuracy" not in (run.path / "metrics.jsonl").read_text()


def test_a_users_task_trains_by_dp_sgd() -> None:
    run = fedsim.run(regression(*COUNTS, *DP_SGD, "rounds=2"), "run")
    assert np.isfinite(run.rows[-1]["mean-error"])


@pytest.mark.parametrize("overrides", [(), WITHIN], ids=["built in", "own metric"])
def test_with_real_noise_scores_on_the_test_set_are_public_and_no_clients(overrides: tuple[str, ...]) -> None:
    noise = ("privacy.noise=os", "server.sampling=poisson", *NO_LOSSES)
    run = fedsim.run(regression(*overrides, *DP_SGD, *noise, "rounds=1"), "run")
    (row,) = run.rows
    assert [key for key in row if not key.startswith("epsilon-")][: 5 + bool(overrides)] == [
        *("round", *(["within"] if overrides else []), "rmse", "mae", "r2", "loss")
    ]
    assert "clients" not in row
    assert run.headline == row[run.scoring.headline.name]
    fedsim.export(run, "published")
    published = json.loads(Path("published/metrics.jsonl").read_text())
    assert published["rmse"] == row["rmse"]
    assert json.loads(Path("published/manifest.json").read_text())["task"] == run.manifest["task"]


def test_a_target_of_the_headline_metric_ends_a_run() -> None:
    whole = fedsim.run(regression("rounds=12"), "whole")
    scores = [row["rmse"] for row in whole.rows]
    target = sorted(scores)[6]
    first = next(place for place, score in enumerate(scores, 1) if score <= target)
    assert 1 < first < 12
    assert len(fedsim.run(regression("rounds=12", f"server.target={target}"), "ended").rows) == first


def test_a_target_above_which_more_is_better() -> None:
    setting = regression(*WITHIN, "rounds=8")
    scores = [row["within"] for row in fedsim.run(setting, "whole").rows]
    first = next(place for place, score in enumerate(scores, 1) if score >= max(scores))
    ended = fedsim.run(regression(*WITHIN, "rounds=8", f"server.target={max(scores)}"), "ended")
    assert len(ended.rows) == first


def test_patience_goes_by_the_tasks_loss() -> None:
    run = fedsim.run(regression("rounds=9", "client.learning-rate=1e-12", "server.patience=2"), "run")
    losses = [row["loss"] for row in run.rows]
    assert len(losses) < 9
    assert min(losses[-2:]) >= min(losses[:-2])


@pytest.mark.parametrize(
    ("overrides", "saying"),
    [
        (
            ("server.target-accuracy=0.5",),
            r"server\.target-accuracy = 0\.5: the task 'regression' has no accuracy; allowed: server\.target, of its "
            "headline metric, rmse",
        ),
        (("server.target=1", "server.target-accuracy=0.5"), r"server\.target = 1\.0: can't stand beside target-acc"),
        (
            ("data.partition=dirichlet",),
            r"data\.partition = 'dirichlet': goes by label, and the targets are real values; allowed: iid, size",
        ),
        (("model.classes=3",), r"model\.classes = 3: the targets of task 'regression' are real values, not labels"),
        (
            ("data.source=stdlib", "model.name=lstm"),
            r"task\.name = 'regression': needs targets that are values, and data\.source = 'stdlib' has tokens",
        ),
        (("task.name=nope",), r"task\.name = 'nope': there is no such name; allowed: classification, next-"),
        (("task.name=json:dumps",), r"task\.name = 'json:dumps': has no attribute targets; allowed: labels, tokens"),
        (("task.name=tests.toys.counts:Nothing",), "can't be loaded"),
        ((*COUNTS, "task.depth=3"), r"task\.name = 'tests\.toys\.counts:Counts': .*unexpected keyword argument 'depth'"),
        (("task.loss=mae",), r"task\.loss = 'mae': must be 'mse' or 'huber'"),
        (("task.scale=0",), r"task\.scale = 0: must be greater than 0"),
        (("task.offset=nan",), r"task\.offset = nan: "),
    ],
)  # fmt: skip
def test_what_a_regression_can_not_be(overrides: tuple[str, ...], saying: str) -> None:
    with pytest.raises(Refused, match=saying):
        fedsim.run(regression(*overrides), "run")
    assert not Path("run").exists()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep of regressions: two kinds, two rates, two seeds, the worse rate pruned."""
    path = tmp_path_factory.mktemp("swept") / "s"
    plain = regression("rounds=3")
    noised = regression("rounds=3", "name=noised", *MECHANISMS["dp-fedavg"])
    fedsim.sweep(
        plain,
        noised,
        grid={"client.learning-rate": [0.05, 1e-6]},
        seeds=2,
        out=path,
        workers=2,
        prune=fedsim.Pruning(factor=2, after=1),
    )
    return path


@pytest.mark.slow
def test_a_sweep_prunes_by_the_headline_metric_where_less_is_better(swept: Path) -> None:
    found = fedsim.Sweep(swept)
    assert json.loads((swept / "sweep.json").read_text())["prune"]["metric"] == "rmse"
    assert set(found.pruned) == {f"{a}-learning-rate-1e-06-s{s}" for a in ("reg", "noised") for s in (0, 1)}
    assert all("by rmse" in reason for reason in found.pruned.values())


def test_a_comparison_says_nothing_of_accuracy(swept: Path, tmp_path: Path) -> None:
    said = command(
        "compare", swept, "--out", "pics", "--csv", "t.csv", "--latex", "t.tex", "--html", "t.html"
    )
    assert "test rmse; epsilon against" in said
    files = [path.read_bytes() for path in (Path("t.csv"), Path("t.tex"), *Path("pics").glob("*.svg"))]
    assert len(files) == 7
    assert not [file for file in files if b"accuracy" in file]
    page = Path("t.html").read_text().replace(get_plotlyjs(), "")
    assert '"metric": "rmse"' in page
    assert "accuracy" not in page
    found = compare([swept])
    best = {group.mechanism: group.summary("rmse") for group in found.groups if group.counted}
    (point,) = found.frontiers[0].points
    (baseline,) = found.frontiers[0].baselines
    assert point.price is not None
    assert (best["dp-fedavg"], best["no privacy"]) == (point.summary, baseline.summary)
    assert (found.column.lower_is_better, point.best) == (True, True)
    assert found.task == "diabetes (test-share=0.2), regression"
    assert compare([swept], metric="r2").column.lower_is_better is False


def test_frames_have_the_tasks_columns(swept: Path) -> None:
    wide, long = fedsim.load_runs(swept), fedsim.load_runs(swept, long=True)
    assert wide.columns[11:16] == ["rmse", "mae", "r2", "loss", "train-loss"]
    assert long.columns[8:13] == ["rmse", "mae", "r2", "loss", "train-loss"]
    assert {"accuracy", "task"} & {*wide.columns, *long.columns} == set()
    assert wide["task.name"].unique().to_list() == ["regression"]


def test_displays_go_by_the_tasks_metrics() -> None:
    Path("r.toml").write_text(TEXT)
    said = command("run", "r.toml", "--out", "run", "--set", "rounds=2")
    row = fedsim.load_run("run").rows[-1]
    scores = f"rmse {row['rmse']:.4f}, mae {row['mae']:.4f}, r2 {row['r2']:.4f}, loss {row['loss']:.4f}"
    assert f"round 2/2: {scores}, train-loss" in said
    assert f"rmse {row['rmse']:.4f} (best {min(r['rmse'] for r in fedsim.load_run('run').rows):.4f})" in said
    own = [f"--set={change}" for change in (*WITHIN, "rounds=1")]
    assert f"within {fedsim.run(regression(*WITHIN, 'rounds=1'), 'w').rows[0]['within']:.2%}" in command(
        "run", "r.toml", "--out", "own", *own
    )
    assert "features 10, 1 real-valued target" in command("data", "r.toml")


def test_the_manifest_says_metrics_only_where_they_are_others_than_accuracy(tiny: Experiment) -> None:
    assert "task" not in fedsim.run(tiny, "plain").manifest
    run = fedsim.run(regression(*WITHIN, "rounds=1"), "own")
    assert run.manifest["task"]["name"] == "tests.toys.within:Within"
    assert [metric.name for metric in run.scoring.metrics] == ["within", "rmse", "mae", "r2"]
    assert run.scoring.headline == Metric(name="within", format=run.scoring.headline.format)
    assert list(run.manifest["modules"]) == ["tests"]


def test_a_file_without_a_task_has_the_sources_and_the_bytes_that_it_had() -> None:
    plain = regression()
    bare = Experiment.from_dict(
        {
            "data": {"source": "diabetes", "partition": "iid", "clients": 8},
            "model": {"name": "linear"},
            "server": {"cohort": 4},
        }
    )
    assert (bare.task, bare.task_entry.name, plain.task_entry.name) == (None, "regression", "regression")
    assert "task" not in bare.to_toml()
    assert "target" not in bare.to_toml()
    assert Experiment().task_entry.name == "classification"
    assert Experiment.from_toml(plain.to_toml()) == plain
