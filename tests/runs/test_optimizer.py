"""Whole runs with the clients' optimizers and schedules: their bits on every engine, resumed, and with privacy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim import Experiment, Refused
from fedsim.catalogue import OPTIMIZERS
from fedsim.clients.client_runtime import ClientRuntime
from fedsim.data import prepare
from tests.support.runs import bits, events_of, private_bits
from tests.support.stopping import stopped

DIGITS = """
name = "optimizers"
rounds = 3
[data]
clients = 8
partition = "dirichlet"
[model]
name = "cnn"
width = 0.125
[client]
batch-size = 20
learning-rate = 0.01
proximal-mu = 0.1
[server]
cohort = 4
[runtime]
engine = "sequential"
"""
ADAM = ("client.optimizer=adam", "client.schedule=cosine", "client.warmup-rounds=1")
ADAMW = (
    "client.optimizer=adamw",
    "client.weight-decay=0.1",
    "client.schedule=step",
    "client.schedule-options.every=2",
)
OWN = (
    "client.optimizer=tests.toys.own_optimizer:NoisySigns",
    "client.optimizer-options={memory = 0.8, blur = 0.01}",
    "client.schedule=tests.toys.own_optimizer:triangle",
    "client.learning-rate=0.003",
)  # fmt: skip
PYTORCHS = ("client.optimizer=torch.optim:Adagrad", "client.optimizer-options.lr-decay=0.1")
DP_SGD = ("privacy.dp-sgd={noise-multiplier = 1.0, delta = 1e-4}", "server.sampling=poisson")
MECHANISMS = {
    "dp-sgd": DP_SGD,
    "dp-fedavg": ("privacy.dp-fedavg={noise-multiplier = 1.0, delta = 1e-4, clip = 1.0}", "server.sampling=poisson"),
    "local-dp": ("privacy.local-dp={noise-multiplier = 0.1, delta = 1e-4, clip = 1.0}",),
    "secagg": ("privacy.secagg={minimum = 2, dropout = 0.3}", "server.cohort=8"),
}  # fmt: skip


def setting(*overrides: str) -> Experiment:
    return Experiment.from_toml(DIGITS, overrides)


@pytest.mark.parametrize(
    "overrides",
    [pytest.param(name, marks=pytest.mark.slow) for name in (ADAM, ADAMW, OWN)],
    ids=["adam", "adamw", "own"],
)
def test_engines_and_resumed_runs_have_the_same_bits(overrides: tuple[str, ...]) -> None:
    reference = bits(fedsim.run(setting(*overrides), "sequential"))
    local = setting(*overrides, "runtime.engine=local", "runtime.workers=2")
    assert bits(fedsim.run(local, "local")) == reference
    assert bits(fedsim.resume(stopped(local, "cut", after=1))) == reference
    assert bits(fedsim.resume(stopped(setting(*overrides), "parts"))) == reference


def test_the_toy_can_be_seen_to_step_and_to_draw() -> None:
    ends = [bits(fedsim.run(setting(*OWN, *more), str(index)))[0] for index, more in enumerate(
        [(), ("seed=0",), ("client.optimizer-options.blur=0.02",), ("client.schedule-options.peak=0.3",)]
    )]  # fmt: skip
    assert ends[0] == ends[1]
    assert len(set(ends)) == 3


def test_a_class_of_pytorch_trains_and_goes_on_with_the_same_bits() -> None:
    run = fedsim.run(setting(*PYTORCHS), "whole")
    assert bits(fedsim.resume(stopped(setting(*PYTORCHS), "parts"))) == bits(run)
    assert bits(run)[0] != bits(fedsim.run(setting(), "sgd"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_optimizers_train_under_every_mechanism(mechanism: str) -> None:
    overrides = MECHANISMS[mechanism]
    models = [bits(fedsim.run(setting(*overrides), "sgd"))[0]]
    for name, chosen in {"adam": ADAM, "own": OWN}.items():
        run = fedsim.run(setting(*overrides, *chosen), name)
        assert np.isfinite(run.rows[-1]["loss"])
        assert sum(row["clients"] for row in run.rows) > 0
        models.append(bits(run)[0])
    assert len(set(models)) == 3
    assert bits(fedsim.resume(stopped(setting(*overrides, *OWN), "parts"))) == bits(run)


@pytest.mark.slow
def test_epsilon_of_adam_under_dp_sgd_is_that_of_sgd() -> None:
    runs = [
        fedsim.run(setting(*DP_SGD, *more), str(index)) for index, more in enumerate([(), ADAM, ADAMW, OWN])
    ]
    for run in runs[1:]:
        assert run.manifest["epsilon"] == runs[0].manifest["epsilon"]
        assert events_of(run) == events_of(runs[0])
    assert len(events_of(runs[0])) > 3
    assert len({bits(run)[0] for run in runs}) == 4
    again = fedsim.run(setting(*DP_SGD, *ADAM, "runtime.engine=local", "runtime.workers=2"), "local")
    assert private_bits(again) == private_bits(runs[1])


@pytest.mark.parametrize("name", [*OPTIMIZERS, "tests.toys.own_optimizer:NoisySigns", "torch.optim:Adagrad"])
def test_a_local_training_begins_with_fresh_state(name: str) -> None:
    """Two clients after each other in one process: the second steps as if there had been no first."""
    experiment = setting(f"client.optimizer={name}", *(["client.momentum=0.9"] if name == "sgd" else []))
    runtime = ClientRuntime(experiment, prepare(experiment))
    weights = {key: tensor.clone() for key, tensor in runtime.model.state_dict().items()}

    def trained(direction: float) -> list[torch.Tensor]:
        runtime.model.load_state_dict(weights)
        optimizer = runtime.optimizer(1)
        for step in (1, 2):
            optimizer.zero_grad()
            for parameter in runtime.model.parameters():
                parameter.grad = torch.full_like(parameter, direction * step)
            optimizer.step()
        return [parameter.detach().clone() for parameter in runtime.model.parameters()]

    torch.manual_seed(0)
    alone = trained(1.0)
    other = trained(-3.0)
    again = trained(1.0)
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))


class Elsewhere:
    """Replaces its parameters' memory instead of updating them in place."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float) -> None:
        self.parameters, self.lr = parameters, lr

    def zero_grad(self) -> None:
        pass

    def step(self) -> None:
        for parameter in self.parameters:
            parameter.data = parameter.data - self.lr * parameter.grad  # type: ignore[operator]


class Leaf(Elsewhere):
    """Forgets torch.no_grad()."""

    def step(self) -> None:
        for parameter in self.parameters:
            parameter.sub_(parameter.grad)  # type: ignore[arg-type]


def words(parameters: Any, lr: float) -> str:
    return "no optimizer"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Elsewhere", r"step\(\) puts parameters elsewhere in memory; it must change them in place"),
        ("Leaf", r"step\(\): a leaf Variable that requires grad is being used in an in-place operation"),
        ("words", r"is a function; a fedsim.optimizers.Optimizer is needed: a subclass"),
    ],
)
def test_an_own_optimizer_that_cant_train_is_refused_before_the_run(name: str, line: str) -> None:
    with pytest.raises(Refused, match=rf"client\.optimizer = '{__name__}:{name}': {line}"):
        fedsim.run(setting(f"client.optimizer={__name__}:{name}"), "run")
    assert not Path("run").exists()
