"""Whole runs of models whose state is more, or less, than parameters that are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import nn

import fedsim
from fedsim import Experiment
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.streams import numpy_stream
from tests.support.states import MECHANISMS, setting
from tests.support.tasks import task_of


def weights(experiment: Experiment, out: Path) -> dict[str, NDArray[Any]]:
    return load_file(fedsim.run(experiment, out).path / "model.safetensors")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_frozen_base_in_the_state_changes_nothing(mechanism: str, tmp_path: Path) -> None:
    inside = weights(setting("adapted", mechanism), tmp_path / "inside")
    outside = weights(setting("adapted", mechanism, model={"in-state": False}), tmp_path / "outside")
    assert sorted(inside.keys() - outside.keys()) == ["base.bias", "base.weight", "deviation"]
    for name, array in outside.items():
        np.testing.assert_array_equal(array, inside[name], err_msg=name)
    experiment = setting("adapted")
    first = initial_model(experiment, task_of(experiment)).state_dict()
    for name in ("base.bias", "base.weight", "deviation"):
        np.testing.assert_array_equal(inside[name], first[name].numpy(), err_msg=name)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_tied_weights_are_one_array(mechanism: str, tmp_path: Path) -> None:
    tied = weights(setting("twice", mechanism, model={"tied": True}), tmp_path / "tied")
    shared = weights(setting("twice", mechanism, model={"tied": False}), tmp_path / "shared")
    for name, array in shared.items():
        np.testing.assert_array_equal(array, tied[name], err_msg=name)
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(tied[f"second.{name}"], tied[f"first.{name}"])


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_transformer_keeps_its_mask(mechanism: str, tmp_path: Path) -> None:
    experiment = setting("causal", mechanism)
    first = initial_model(experiment, task_of(experiment)).state_dict()
    last = weights(experiment, tmp_path / "run")
    for name in ("mask", "position_ids", "flags"):
        np.testing.assert_array_equal(last[name], first[name].numpy())
    assert all(np.isfinite(array).all() for name, array in last.items() if name != "mask")
    assert not np.array_equal(last["head.weight"], first["head.weight"].numpy())


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("model", ["causal", "normed"])
def test_the_same_bits_on_worker_processes(model: str, mechanism: str, tmp_path: Path) -> None:
    if (model, mechanism) == ("normed", "dp-sgd"):
        pytest.skip("batch norm mixes examples")
    one = weights(setting(model, mechanism), tmp_path / "one")
    others = weights(
        setting(model, mechanism, runtime={"engine": "local", "workers": 2}), tmp_path / "others"
    )
    for name, array in one.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)


def bare_fedavg(experiment: Experiment) -> dict[str, NDArray[Any]]:
    """Train as FedAvg's paper says, with means of the whole state in float64; counters are rounded."""
    data, task = prepare(experiment), task_of(experiment)
    model = initial_model(experiment, task)
    arrays = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for round_ in range(1, experiment.rounds + 1):
        sums: dict[str, NDArray[np.float64]] = {}
        total = 0
        for client in range(data.clients):
            model.load_state_dict(arrays)
            model.train()
            inputs, targets = task.tensors(data.client(client).train)
            order = numpy_stream(experiment.seed, "batches", round_=round_, client=client).permutation(
                len(targets)
            )
            optimizer = torch.optim.SGD(model.parameters(), lr=experiment.client.learning_rate)
            for start in range(0, len(order), experiment.client.batch_size):
                chosen = torch.from_numpy(order[start : start + experiment.client.batch_size])
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
            for name, tensor in model.state_dict().items():
                product = len(targets) * tensor.numpy().astype(np.float64)
                sums[name] = sums[name] + product if name in sums else product
            total += len(targets)
        for name, old in arrays.items():
            mean = sums[name] / total
            arrays[name] = torch.from_numpy(
                np.asarray(mean if old.is_floating_point() else np.rint(mean))
            ).to(old.dtype)
    return {name: tensor.numpy() for name, tensor in arrays.items()}


def by_examples(**tables: Any) -> Experiment:
    everybody = {"cohort": 12, "weighting": "examples", "sampling": "fixed"}
    return setting("normed", data={"partition": "dirichlet", "alpha": 0.5}, server=everybody | tables)


def test_statistics_are_averaged_as_fedavg_says(tmp_path: Path) -> None:
    found, expected = weights(by_examples(), tmp_path / "run"), bare_fedavg(by_examples())
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    assert found["norm.num_batches_tracked"] == expected["norm.num_batches_tracked"] > 0


@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm", "qfedavg", "fedmedian"])
def test_strategies_act_on_parameters_alone(strategy: str, tmp_path: Path) -> None:
    """After one round the statistics are FedAvg's, whatever the strategy does to the parameters."""
    one = {"rounds": 1}
    plain = by_examples().model_copy(update=one)
    other = by_examples(strategy=strategy).model_copy(update=one)
    expected, found = weights(plain, tmp_path / "plain"), weights(other, tmp_path / "other")
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
    assert not np.array_equal(found["first.weight"], expected["first.weight"])


@pytest.mark.parametrize("mechanism", ["dp-fedavg", "dp-ftrl", "local-dp", "secagg"])
def test_batch_norm_at_the_client_level(mechanism: str, tmp_path: Path) -> None:
    found = weights(setting("normed", mechanism, privacy=MECHANISMS[mechanism]), tmp_path / "run")
    assert found["norm.num_batches_tracked"] == 0, "a counter is not part of the release"
    assert found["norm.running_var"].min() >= 0
    assert all(np.isfinite(array).all() for array in found.values())


@pytest.mark.parametrize("mechanism", ["dp-fedavg", "dp-ftrl", "local-dp"])
def test_a_row_of_padding_gets_no_noise(mechanism: str, tmp_path: Path) -> None:
    experiment = setting("padded", mechanism)
    first = initial_model(experiment, task_of(experiment)).state_dict()["levels.weight"].numpy()
    last = weights(experiment, tmp_path / "run")["levels.weight"]
    np.testing.assert_array_equal(last[0], first[0])
    assert (last[1:] != first[1:]).all(), "noise reaches every other number"
