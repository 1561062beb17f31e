"""SCAFFOLD against a loop written apart, and the invariant that the server's control variate is the clients' mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import fedsim
from fedsim import Experiment, Refused
from fedsim.algorithms.scaffold import Scaffold
from fedsim.clients.mods import fields
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.privacy.cohorts.sampling import draw
from fedsim.streams import numpy_stream
from tests.conftest import experiment
from tests.support.fields import client_values, distance, mean, server_state
from tests.support.tasks import task_of, tensors

CLIENTS = 6
BASE = (
    "algorithm.name=scaffold",
    f"data.clients={CLIENTS}",
    "data.partition=dirichlet",
    "server.cohort=4",
    "client.epochs=2",
    "client.batch-size=30",
    "client.learning-rate=0.1",
    "runtime.engine=sequential",
)


def setting_of(*overrides: str) -> Experiment:
    """Return the experiment above with overrides, which win."""
    return experiment(*{o.partition("=")[0]: o for o in (*BASE, *overrides)}.values())


FAULTS = ("rounds=6", "faults.dropout=0.2", "faults.crash=0.15", "faults.nan=0.15")
SECAGG = (
    "server.weighting=uniform",
    "privacy.secagg.minimum=2",
    "privacy.secagg.corrupt=0.0",
    "privacy.secagg.dropout=0.4",
    "privacy.secagg.input-bits=24",
    "privacy.secagg.clip=20.0",
)


def by_hand(setting: Experiment) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return SCAFFOLD's model and control variate, after Karimireddy et al. 2020, Algorithm 1, in float64.

    Momentum is kept within a local training, as NIID-Bench trains; the correction stands beside it.
    """
    data, client, names = prepare(setting), setting.client, []
    model = initial_model(setting, task_of(setting))
    x = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    names = list(x)
    c = {name: torch.zeros_like(x[name]) for name in names}
    own = [{name: torch.zeros_like(x[name]) for name in names} for _ in range(data.clients)]
    model = model.double()
    for round_ in range(1, setting.rounds + 1):
        cohort = draw(
            "fixed", setting.server.cohort, data.clients, numpy_stream(setting.seed, "cohort", round_=round_)
        )
        ends, changes, weights = [], [], []
        for i in cohort:
            inputs, labels = tensors(data, data.client(i).train)
            inputs = inputs.double()
            y = {name: value.clone() for name, value in x.items()}
            velocity = {name: torch.zeros_like(value) for name, value in x.items()}
            shuffle = numpy_stream(setting.seed, "batches", round_=round_, client=i)
            size, steps = min(client.batch_size, len(labels)), 0
            for _ in range(client.epochs):
                order = shuffle.permutation(len(labels))
                for start in range(0, len(labels), size):
                    batch = torch.from_numpy(order[start : start + size])
                    wanted = {name: value.clone().requires_grad_() for name, value in y.items()}
                    outputs = torch.func.functional_call(model, wanted, (inputs[batch],))
                    loss = torch.nn.functional.cross_entropy(outputs, labels[batch])
                    gradients = torch.autograd.grad(loss, list(wanted.values()))
                    for name, gradient in zip(names, gradients, strict=True):
                        velocity[name] = client.momentum * velocity[name] + gradient
                        y[name] = y[name] - client.learning_rate * (velocity[name] - own[i][name] + c[name])
                    steps += 1
            fresh = {
                name: own[i][name] - c[name] + (x[name] - y[name]) / (steps * client.learning_rate)
                for name in names
            }
            ends.append(y)
            changes.append({name: fresh[name] - own[i][name] for name in names})
            weights.append(len(labels) if setting.server.weighting == "examples" else 1)
            own[i] = fresh
        share = [weight / sum(weights) for weight in weights]
        x = {n: sum(w * y[n] for w, y in zip(share, ends, strict=True)) for n in names}  # type: ignore[misc]
        c = {name: c[name] + sum(change[name] for change in changes) / data.clients for name in names}
    return {n: v.numpy() for n, v in x.items()}, {n: v.numpy() for n, v in c.items()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_it_is_the_algorithm_of_the_paper(momentum: float, weighting: str) -> None:
    setting = setting_of(f"client.momentum={momentum}", f"server.weighting={weighting}")
    assert setting.rounds == 3
    run = fedsim.run(setting, "run")
    model, control = by_hand(setting)
    assert distance(load_file(run.path / "model.safetensors"), model) < 1e-6
    assert distance(server_state(run.path)["values"]["control"], control) < 1e-5
    plain = fedsim.run(
        setting_of("algorithm.name=fedavg", f"client.momentum={momentum}", f"server.weighting={weighting}"),
        "plain",
    )
    assert (
        distance(load_file(plain.path / "model.safetensors"), model) > 1e-3
    )  # the control: FedAvg is another


def gap(run: Path) -> float:
    """Return how far the server's control variate is from the mean of the clients'."""
    return distance(server_state(run)["values"]["control"], mean(client_values(run, "control", CLIENTS)))


@pytest.mark.parametrize(
    ("more", "most"),
    [
        ((), 1e-6),
        ((*SECAGG, "privacy.secagg.mode=ideal"), 1e-4),
        ((*SECAGG, "privacy.secagg.mode=real"), 1e-4),
    ],
    ids=["plain", "ideal", "real"],
)
def test_the_servers_control_variate_is_the_clients_mean_whoever_fails(
    more: tuple[str, ...], most: float
) -> None:
    run = fedsim.run(setting_of(*FAULTS, *more), "run")
    assert sum(row["failures"] for row in run.rows) > 3
    assert max(float(np.abs(v).max()) for v in server_state(run.path)["values"]["control"].values()) > 0.01
    assert gap(run.path) < most


def test_without_the_servers_word_the_mean_would_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # The control of the test above: a client that takes every change that it has sent for one that was in the sum.
    real = fields.settle

    def trusting(context: object, algorithm: object, first: object, in_sum: int) -> None:
        record = context.state.get("pending", {})  # type: ignore[attr-defined]
        real(context, algorithm, first, int(record.get("round", 0)))  # type: ignore[arg-type]

    monkeypatch.setattr("fedsim.clients.mods.fields.settle", trusting)
    assert not gap(fedsim.run(setting_of(*FAULTS), "run").path) < 1e-3  # it is NaN: what was sent so is kept


@pytest.mark.parametrize(
    "more",
    [
        (
            "privacy.dp-fedavg.clip=0.2",
            "privacy.dp-fedavg.noise-multiplier=1e-6",
            "privacy.dp-fedavg.delta=1e-3",
        ),
        ("privacy.local-dp.clip=0.2", "privacy.local-dp.noise-multiplier=0.1", "privacy.local-dp.delta=1e-3"),
    ],
    ids=["dp-fedavg", "local-dp"],
)
def test_under_a_clip_a_client_keeps_what_has_left_it(more: tuple[str, ...]) -> None:
    run = fedsim.run(setting_of("rounds=4", "algorithm.control-scale=0.2", *more), "run")
    assert gap(run.path) < 1e-5
    assert max(np.abs(v).max() for v in server_state(run.path)["values"]["control"].values()) > 1e-3


def test_one_clip_bounds_model_and_control_variate_together() -> None:
    clip, scale = 0.05, 0.2
    run = fedsim.run(
        setting_of(
            "rounds=1",
            "server.cohort=1",
            f"algorithm.control-scale={scale}",
            f"privacy.dp-fedavg.clip={clip}",
            "privacy.dp-fedavg.noise-multiplier=1e-6",
            "privacy.dp-fedavg.delta=1e-3",
        ),
        "run",
    )
    setting = setting_of()
    model_before = initial_model(setting, task_of(setting))
    before = {name: p.detach().numpy() for name, p in model_before.named_parameters()}
    after = load_file(run.path / "model.safetensors")
    model = np.concatenate([(after[n] - before[n]).ravel() for n in before])
    control = (
        np.concatenate([v.ravel() for v in server_state(run.path)["values"]["control"].values()]) * CLIENTS
    )
    joint = np.concatenate([model, scale * control])
    assert np.linalg.norm(joint) == pytest.approx(clip, rel=1e-3)
    assert np.linalg.norm(model) < 0.99 * clip
    # Before a control variate is, c_i becomes (received - trained) / (steps * rate): the two parts point one way.
    assert np.corrcoef(model, control)[0, 1] == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["server.strategy=krum"], "server.strategy = 'krum': needs each client's model"),
        (
            ["privacy.secagg.minimum=2"],
            "server.weighting = 'examples': the fields of algorithm.name = 'scaffold' have equal weights",
        ),
        (["algorithm.control-scale=0"], "algorithm.control-scale = 0: must be greater than 0"),
        (
            ["algorithm.name=scafold"],
            "algorithm.name = 'scafold': there is no such name; allowed: fedavg, scaffold",
        ),
    ],
)
def test_invalid_combinations_are_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(Refused) as refused:
        setting_of(*overrides)
    assert str(refused.value).startswith(line)


def test_rare_participation_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert Scaffold().warning(0.5) == ""
    fedsim.run(setting_of("rounds=1", "server.cohort=1"), "rare")
    assert "17% of the clients take part in a round" in caplog.text
    caplog.clear()
    fedsim.run(setting_of("rounds=1"), "often")
    assert caplog.text == ""
