"""What holds for every task: shapes, losses by example, sums over batches, scores by NumPy alone, whole runs.

A new task gets a line in `CASES`, with its scores written once more in NumPy. What is peculiar to one stands in
`tests/fedsim/test_tasks.py` and `tests/runs/test_tasks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import fedsim
from fedsim import Experiment
from fedsim.catalogue import TASKS, Kind, Targets
from fedsim.data import Examples, prepare
from fedsim.models import initial_model
from fedsim.tasks import Direction, Format, Metric
from fedsim.tasks.build import task_class
from fedsim.tasks.scoring import score
from tests.support.runs import bits
from tests.support.stopping import stopped
from tests.support.tasks import task_of

RUN = """
rounds = 4
[data]
held-out = 0.2
[client]
learning-rate = 0.05
[server]
cohort = 4
client-evaluation = "all"
[runtime]
engine = "sequential"
"""
DIGITS = ("data.clients=8", "data.partition=iid", "model.name=linear")
TEXT = (
    *("data.source=stdlib", "data.partition=natural", "data.clients=6", "data.sequence-length=20"),
    *("data.max-characters=1200", "model={name = 'lstm', hidden = 16, layers = 1}"),
    *("client.steps=5", "client.learning-rate=1.0"),
)
PATIENTS = (
    *("data.source=diabetes", "data.clients=8", "data.partition=iid", "model.name=linear"),
    *("task.offset=150.0", "task.scale=80.0"),
)
COUNTED = (*PATIENTS[:4], "task.ceiling=3.0", "client.learning-rate=0.01")

Array = NDArray[np.float64]
Scores = dict[str, float]


def of_labels(z: Array, y: NDArray[np.int64]) -> Scores:
    """Return cross-entropy and accuracy of logits `(n, classes)` at labels `(n,)`."""
    largest = z.max(axis=1)
    normaliser = largest + np.log(np.exp(z - largest[:, None]).sum(axis=1))
    chosen = z[np.arange(len(y)), y]
    return {"loss": float(np.mean(normaliser - chosen)), "accuracy": float(np.mean(z.argmax(axis=1) == y))}


def classification(outputs: Array, examples: Examples) -> Scores:
    assert examples.y is not None
    return of_labels(outputs, examples.y)


def next_character(outputs: Array, examples: Examples) -> Scores:
    return of_labels(outputs.reshape(-1, outputs.shape[-1]), examples.x[:, 1:].reshape(-1).astype(np.int64))


def errors(outputs: Array, examples: Examples) -> tuple[Array, Array]:
    """Return predictions less targets, and the targets, `(n,)` both, in the targets' unit."""
    assert examples.y is not None
    y = examples.y.astype(np.float64)
    return outputs[:, 0] * 80.0 + 150.0 - y, y


def regression(outputs: Array, examples: Examples) -> Scores:
    e, y = errors(outputs, examples)
    return {
        "loss": float(np.mean((e / 80.0) ** 2)),
        "rmse": float(np.sqrt(np.mean(e**2))),
        "mae": float(np.mean(np.abs(e))),
        "r2": float(1 - np.sum(e**2) / np.sum((y - y.mean()) ** 2)),
    }


def huber(outputs: Array, examples: Examples) -> Scores:
    r = np.abs(errors(outputs, examples)[0]) / 80.0
    loss = np.where(r <= 0.5, r**2 / 2, 0.5 * (r - 0.25))
    return regression(outputs, examples) | {"loss": float(loss.mean())}


def within(outputs: Array, examples: Examples) -> Scores:
    e, _ = errors(outputs, examples)
    return {"within": float(np.mean(np.abs(e) <= 60.0)), **regression(outputs, examples)}


def counts(outputs: Array, examples: Examples) -> Scores:
    assert examples.y is not None
    z, y = outputs[:, 0], np.minimum(examples.y.astype(np.float64), 3.0)
    return {"loss": float(np.mean(np.exp(z) - y * z)), "mean-error": float(np.mean(np.abs(np.exp(z) - y)))}


# A task's name, what its experiment sets beside it, and its scores.
CASES: dict[str, tuple[str, tuple[str, ...], Callable[[Array, Examples], Scores]]] = {
    "classification": ("classification", DIGITS, classification),
    "next-character": ("next-character", TEXT, next_character),
    "regression": ("regression", PATIENTS, regression),
    "huber": ("regression", (*PATIENTS, "task.loss=huber", "task.delta=0.5"), huber),
    "own task": ("tests.toys.counts:Counts", COUNTED, counts),
    "own metric": ("tests.toys.within:Within", (*PATIENTS, "task.tolerance=60.0"), within),
}


def setting(name: str, *more: str) -> Experiment:
    """Return the experiment of a case."""
    task, overrides, _ = CASES[name]
    return Experiment.from_toml(RUN, [f"task.name={task}", *overrides, *more])


@dataclass
class Batch:
    """A case's task, and the model that its runs begin with on some test examples."""

    task: Any
    model: torch.nn.Module
    examples: Examples
    inputs: Tensor
    outputs: Tensor
    targets: Tensor


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def batch(name: str) -> Batch:
    experiment = setting(name)
    task, model = task_of(experiment), initial_model(experiment, task_of(experiment)).eval()
    examples = prepare(experiment).test.part(slice(0, 37))
    inputs, targets = task.tensors(examples)
    with torch.no_grad():
        outputs = model(inputs)
    return Batch(task, model, examples, inputs, outputs, targets)


def test_every_task_is_among_the_cases() -> None:
    assert {task for task, *_ in CASES.values() if ":" not in task} == set(TASKS)


def test_the_class_says_its_targets_and_its_metrics(name: str) -> None:
    found = task_class(setting(name).task_entry)
    assert found.targets in set(Targets)
    assert isinstance(found.loss_unit, str)
    assert found.metrics
    for metric in found.metrics:
        assert isinstance(metric, Metric)
        assert (metric.direction in set(Direction), metric.format in set(Format)) == (True, True)
        low, high = metric.best([0.25, 0.5]), metric.best([0.5, 0.25])
        assert low == high == (0.25 if metric.direction == Direction.LOWER else 0.5)
        assert metric.text(0.5) == ("50.00%" if metric.format == Format.PERCENT else "0.5000")


def test_inputs_targets_and_outputs_have_the_shapes_that_are_said(batch: Batch) -> None:
    task, count = batch.task, len(batch.examples)
    assert batch.inputs.shape == (count, *task.inputs.shape)
    assert batch.inputs.dtype == (torch.int64 if task.inputs.kind is Kind.TEXT else torch.float32)
    assert len(batch.targets) == count
    positions = task.inputs.shape if task.outputs.per_token else ()
    assert batch.outputs.shape == (count, *positions, task.outputs.size)
    if task.targets is Targets.VALUES:
        assert batch.targets.dtype == torch.float32
    else:
        assert batch.targets.shape == (count, *positions)
        assert batch.targets.dtype == torch.int64
        assert 0 <= batch.targets.min() <= batch.targets.max() < task.outputs.size


def test_the_loss_is_the_mean_of_the_examples_losses_and_so_is_its_gradient(batch: Batch) -> None:
    losses = batch.task.losses(batch.outputs, batch.targets)
    assert losses.shape == (len(batch.examples),)
    assert torch.isfinite(losses).all()
    assert len(losses.unique()) > 1
    torch.testing.assert_close(batch.task.loss(batch.outputs, batch.targets), losses.mean())

    def gradients(loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(batch.model(batch.inputs)), list(batch.model.parameters()))

    whole = gradients(lambda outputs: batch.task.loss(outputs, batch.targets))
    by_example = gradients(lambda outputs: batch.task.losses(outputs, batch.targets).mean())
    assert any(gradient.any() for gradient in whole)
    for one, other in zip(whole, by_example, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_examples_loss_is_of_its_own_outputs_and_target_alone(batch: Batch) -> None:
    """DP-SGD clips the gradient of each: of another example's outputs, none may depend on them."""
    losses = batch.task.losses(batch.outputs, batch.targets)
    others = batch.outputs.roll(1, 0) + 0.5, batch.targets.roll(1, 0)
    for place in (0, 5):
        outputs, targets = (part.clone() for part in others)
        outputs[place], targets[place] = batch.outputs[place], batch.targets[place]
        changed = batch.task.losses(outputs, targets)
        torch.testing.assert_close(changed[place], losses[place])
        assert (changed != losses).sum() > len(losses) / 2


def test_sums_of_batches_give_the_score_of_all(batch: Batch) -> None:
    whole = batch.task.measure(batch.outputs, batch.targets)
    assert (whole.dtype, whole.dim()) == (torch.float64, 1)
    parts = [batch.task.measure(batch.outputs[s], batch.targets[s]) for s in (slice(0, 30), slice(30, 37))]
    one = batch.task.score(whole.tolist())
    other = batch.task.score([sum(pair) for pair in zip(*(part.tolist() for part in parts), strict=True)])
    assert one.predictions == other.predictions == batch.targets.numel()
    assert one.loss == pytest.approx(other.loss)
    assert one.metrics == pytest.approx(dict(other.metrics))


def test_scores_are_those_that_numpy_computes(name: str, batch: Batch) -> None:
    found = score(batch.model, batch.task, batch.examples)
    expected = CASES[name][2](batch.outputs.double().numpy(), batch.examples)
    assert {"loss": found.loss, **found.metrics} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert list(found.metrics) == [metric.name for metric in batch.task.metrics]


def test_a_run_trains_and_goes_on_after_a_stop_with_the_same_bits(name: str) -> None:
    run = fedsim.run(setting(name), "whole")
    data, task = prepare(run.experiment), task_of(run.experiment)
    before = score(initial_model(run.experiment, task), task, data.test)
    assert run.rows[-1]["loss"] < before.loss
    assert run.headline == run.rows[-1][task.metrics[0].name]
    for metric in task.metrics:
        assert metric.name in run.rows[-1]
        assert (f"client-{metric.name}" in run.rows[-1]) == metric.by_client
    after = score(run.model(), task, data.test)
    assert {"loss": after.loss, **after.metrics} == {
        key: run.rows[-1][key] for key in ("loss", *after.metrics)
    }
    assert bits(fedsim.resume(stopped(setting(name), "parts"))) == bits(run)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_worker_processes_have_the_same_bits(case: str) -> None:
    reference = bits(fedsim.run(setting(case), "sequential"))
    local = setting(case, "runtime.engine=local", "runtime.workers=2")
    assert bits(fedsim.run(local, "local")) == reference
