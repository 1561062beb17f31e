"""Tasks, by hand and against scikit-learn: losses, metrics, accepted data."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import huber_loss

from fedsim import Experiment, Refused
from fedsim.catalogue import Kind
from fedsim.data import DataSpec, Examples, prepare
from fedsim.data.own import OwnData, read_own
from fedsim.options import Options, RegressionOptions
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.dp_sgd.gradient import Kernel, PrivateGradient
from fedsim.tasks import Direction, Format, Metric, Scoring, Task, column_of
from fedsim.tasks.classification import Classification
from fedsim.tasks.regression import Regression
from fedsim.tasks.scoring import score
from tests.toys.within import Within


def regression(values: int = 1, **options: Any) -> Regression:
    return Regression(
        DataSpec(kind=Kind.FEATURES, shape=(3,), values=values), RegressionOptions.model_validate(options)
    )


class Fixed(torch.nn.Module):
    """Returns some of its inputs as its outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.outputs]


def test_losses_by_hand() -> None:
    outputs, targets = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert regression(2).losses(outputs, targets).tolist() == [2.5, 4.5]
    assert regression(2).loss(outputs, targets).item() == 3.5
    # |r| = 1, 2, 0, 3 with delta 1: 1/2, 3/2, 0, 5/2.
    assert regression(2, loss="huber").losses(outputs, targets).tolist() == [1.0, 1.25]
    assert regression(2, loss="huber", delta=2.0).losses(outputs, targets).tolist() == [1.25, 2.0]


def test_huber_is_pytorchs() -> None:
    outputs, targets = torch.randn(40, 3), 3 * torch.randn(40, 3)
    ours = regression(3, loss="huber", delta=0.7).loss(outputs, targets)
    assert ours.item() == pytest.approx(huber_loss(outputs, targets, delta=0.7).item(), rel=1e-6)


@pytest.mark.parametrize("values", [1, 3])
@pytest.mark.parametrize("count", [7, 1203])  # one batch, and three
def test_metrics_are_scikit_learns_in_the_targets_unit(values: int, count: int) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    generator = np.random.default_rng(values)
    y = (1000 + 30 * generator.normal(size=(count, values))).astype(np.float32)
    x = generator.normal(size=(count, 3)).astype(np.float32)
    task = regression(values, offset=1000.0, scale=25.0)
    found = score(Fixed(values), task, Examples(x, y[:, 0] if values == 1 else y, Kind.FEATURES), threads=2)
    predicted = 25.0 * x[:, :values].astype(float) + 1000.0
    assert list(found.metrics) == ["rmse", "mae", "r2"]
    assert found.metrics["rmse"] == pytest.approx(root_mean_squared_error(y, predicted), rel=1e-5)
    assert found.metrics["mae"] == pytest.approx(mean_absolute_error(y, predicted), rel=1e-5)
    assert found.metrics["r2"] == pytest.approx(r2_score(y, predicted), rel=1e-5)
    assert found.loss == pytest.approx((((y - predicted) / 25.0) ** 2).mean(), rel=1e-5)
    assert found.predictions == count * values


@pytest.mark.parametrize("y", [[3.7], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_r2_is_absent_where_targets_do_not_vary(y: list[float]) -> None:
    examples = Examples(np.ones((len(y), 3), np.float32), np.array(y, np.float32), Kind.FEATURES)
    assert list(score(Fixed(1), regression(), examples).metrics) == ["rmse", "mae"]


def test_outputs_must_be_as_many_as_targets() -> None:
    examples = Examples(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32), Kind.FEATURES)
    with pytest.raises(
        ValueError, match=r"outputs have shape \(4, 1\), the targets \(4, 2\); they must be as many"
    ):
        score(Fixed(1), regression(2), examples)
    # A model that returns `(examples,)` for one target is understood.
    assert regression().losses(torch.ones(4), torch.zeros(4, 1)).tolist() == [1.0] * 4


def test_a_users_metric_by_hand() -> None:
    task = Within(DataSpec(kind=Kind.FEATURES, shape=(3,), values=1), tolerance=2.0, scale=2.0)
    x, y = np.zeros((4, 3), np.float32), np.array([0.0, 2.0, -1.0, 5.0], np.float32)
    found = score(Fixed(1), task, Examples(x, y, Kind.FEATURES))
    assert next(iter(found.metrics.items())) == ("within", 0.75)
    assert found.metrics["mae"] == pytest.approx(2.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, on its way to the compiler
@pytest.mark.parametrize("kernel", ["fast", "opacus", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_dp_sgds_gradient_is_the_one_by_hand(kernel: Kernel, loss: str) -> None:
    """One linear layer, two targets: the gradient of the squared error at example i is `r_i (x_i, 1)`, then clipped."""
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.empty(6, size).normal_(generator=generator) for size in (3, 2))
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.empty(2, 3).normal_(generator=generator))
        model.bias.fill_(0.25)
    w, b = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    residuals = x.double().numpy() @ w.T + b - y.double().numpy()
    # d/do of the mean over two targets: r for the square; r/2, cut at delta/2, for Huber's.
    at_outputs = residuals if loss == "mse" else np.clip(residuals, -0.5, 0.5) / 2
    each = [np.outer(r, [*row, 1.0]) for r, row in zip(at_outputs, x.double().numpy(), strict=True)]
    norms = [np.linalg.norm(g) for g in each]
    clip = float(np.median(norms))  # half of them are clipped
    assert min(norms) < clip < max(norms)
    total = sum(g * min(1.0, clip / norm) for g, norm in zip(each, norms, strict=True))
    task = regression(2, loss=loss, delta=0.5)
    gradient = PrivateGradient(
        model, task.losses, clip=clip, kernel=kernel, max_batch=8, arithmetic=Arithmetic.FLOAT32
    )
    sums, losses = gradient._sums(x, y)
    np.testing.assert_allclose(sums[model.weight].numpy(), total[:, :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums[model.bias].numpy(), total[:, 3], rtol=1e-4, atol=1e-5)
    assert losses.mean().item() == pytest.approx(task.loss(model(x), y).item())


def test_the_classification_task_has_the_labels_that_it_is_told() -> None:
    task: Task = Classification(DataSpec(kind=Kind.FEATURES, shape=(3,), classes=4), Options())
    assert (task.outputs.size, task.outputs.per_token, task.inputs.shape) == (4, False, (3,))
    with pytest.raises(TypeError, match="targets of int64 are needed, not float32"):
        task.tensors(Examples(np.ones((1, 3), np.float32), np.ones(1, np.float32), Kind.FEATURES))


# --- metrics as data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "RMSE", "a_b", "-a", "loss", "round", "clients", "client-x", "epsilon-server", "seconds", "unit"],
)
def test_a_metric_is_called_like_no_other_column(name: str) -> None:
    with pytest.raises(
        ValueError, match="a name is small letters, digits and single hyphens, and not a column"
    ):
        Metric(name=name)


def test_what_a_manifest_says_comes_back() -> None:
    metrics = (
        Metric(name="f1", format=Format.PERCENT),
        Metric(name="gap", direction=Direction.LOWER, by_client=False),
    )
    scoring = Scoring(task="own:Task", metrics=metrics, loss_unit="bits")
    assert Scoring.of(json.loads(json.dumps(scoring.manifest()))) == scoring
    assert Scoring().manifest() == {}
    assert Scoring.of({}) == Scoring()


@pytest.mark.parametrize(
    ("name", "lower", "percent", "axis"),
    [
        ("rmse", True, False, "test rmse"),
        ("client-rmse", True, False, "rmse on clients' held-out data"),
        ("client-rmse-max", True, False, "client-rmse-max"),
        ("r2", False, False, "test r2"),
        ("loss", True, False, "test loss"),
        ("train-loss", True, False, "training loss"),
        ("bytes", True, False, "bytes of all rounds, both ways"),
    ],
)
def test_columns_of_a_regression(name: str, lower: bool, percent: bool, axis: str) -> None:
    column = column_of(name, Scoring(task="regression", metrics=Regression.metrics, loss_unit=""))
    assert (column.lower_is_better, column.percent, column.axis) == (lower, percent, axis)


# --- data --------------------------------------------------------------------------------------------------


def load(path: str, *overrides: str) -> Any:
    text = (
        f"[data]\nsource = 'npz'\npath = {path!r}\nclients = 3\npartition = 'iid'\n[model]\nname = 'linear'"
    )
    return prepare(
        Experiment.from_toml(text + "\n[server]\ncohort = 1\n[task]\nname = 'regression'", overrides)
    )


def write(path: str, y: Any, y_test: Any = None) -> str:
    x, y = np.arange(24.0).reshape(8, 3), np.asarray(y)
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2] if y_test is None else y_test)
    return str(Path(path).absolute())


@pytest.mark.parametrize(
    ("y", "values", "shape"),
    [
        (np.linspace(-1, 1, 8), 1, ()),
        (np.arange(8), 1, ()),
        (np.linspace(-1, 1, 8)[:, None], 1, ()),
        (np.linspace(-1, 1, 24).reshape(8, 3), 3, (3,)),
    ],
)  # fmt: skip
def test_an_npz_file_with_real_values(y: np.ndarray, values: int, shape: tuple[int, ...]) -> None:
    data = load(write("d.npz", y))
    assert data.spec == DataSpec(kind=Kind.FEATURES, shape=(3,), values=values)
    assert (data.test.y.dtype, data.test.y.shape) == (np.float32, (2, *shape))
    assert data.labels().shape == (3, 0)
    dealt = np.concatenate([data.client(client).train.y for client in range(3)])
    np.testing.assert_array_equal(
        np.sort(dealt, axis=0), np.sort(y.astype(np.float32).reshape(8, *shape), axis=0)
    )
    assert DataSpec.loads(data.spec.dumps()) == data.spec


@pytest.mark.parametrize(
    ("y", "y_test", "saying"),
    [
        ([1.0, math.nan, *[0.0] * 6], None, "y_train: holds NaN, infinity or what float32 can't hold"),
        ([1e300, *[0.0] * 7], None, "y_train: holds NaN, infinity or what float32 can't hold"),
        (["a"] * 8, None, "y_train: has dtype <U1; numbers are needed"),
        (np.zeros((8, 2, 2)), None, "there must be one label for each input"),
        (np.zeros((8, 2)), np.zeros(2), r"y_train has shape \(8, 2\) and y_test \(2,\); they must be alike"),
    ],
)
def test_values_that_are_none(y: Any, y_test: Any, saying: str) -> None:
    with pytest.raises(Refused, match=saying):
        load(write("d.npz", y, y_test))


def test_fractional_labels_are_refused_with_a_hint_at_regression() -> None:
    with pytest.raises(
        Refused, match=r"holds fractions; whole numbers from 0 are needed .*name = 'regression'"
    ):
        load(write("d.npz", np.linspace(0, 1, 8)), "task.name=classification")


def test_labels_and_values_of_one_file_are_kept_apart_in_the_cache() -> None:
    path = write("d.npz", np.arange(8))
    assert (load(path).spec.values, load(path, "task.name=classification").spec.classes) == (1, 8)


@pytest.mark.parametrize("values", [1, 2])
def test_a_clients_own_file(values: int) -> None:
    import polars as pl

    y = np.linspace(-1, 1, 8).reshape(8, 1) if values == 1 else np.linspace(-1, 1, 16).reshape(8, 2)
    np.savez("own.npz", x=np.ones((8, 3)), y=y)
    rows = y[:, 0].tolist() if values == 1 else y.tolist()
    pl.DataFrame({"a": [1.0] * 8, "b": [1.0] * 8, "c": [1.0] * 8, "label": rows}).write_parquet("own.parquet")
    spec = DataSpec(kind=Kind.FEATURES, shape=(3,), values=values)
    for name in ("own.npz", "own.parquet"):
        file = read_own(Path(name), name, spec.targets)
        data = OwnData(file, spec, 0.25, 5)
        assert (len(data.client(0).train), len(data.client(0).held_out)) == (6, 2)
        np.testing.assert_array_equal(file.y, (y[:, 0] if values == 1 else y).astype(np.float32))
        with pytest.raises(Refused, match=f"has {values} real-valued targets an example; the task has 4"):
            file.examples(DataSpec(kind=Kind.FEATURES, shape=(3,), values=4))


def test_targets_of_a_parquet_folder() -> None:
    import pyarrow
    import pyarrow.parquet

    Path("d").mkdir()
    columns = {"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "label": [0.5, -1.5, 2.0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), "d/train.parquet")
    text = "[data]\nsource = 'huggingface'\npath = 'd'\nclients = 1\npartition = 'iid'\n[model]\nname = 'linear'\n"
    data = prepare(Experiment.from_toml(text + "[server]\ncohort = 1\n[task]\nname = 'regression'"))
    found = {float(y) for part in (data.test, data.client(0).train) for y in part.y}  # type: ignore[union-attr]
    assert (found, data.spec.values) == ({0.5, -1.5, 2.0}, 1)
