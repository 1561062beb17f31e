"""The reply of a client under DP-SGD: nothing depends on examples without noise, and dropout masks are secret."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from torch import nn

from fedsim import Experiment
from fedsim.clients.app import app
from fedsim.clients.client_runtime import _client_runtime
from fedsim.data import prepare
from fedsim.messages import VECTOR
from fedsim.models import initial_state
from fedsim.privacy.dp_sgd.steps import Untrained
from fedsim.privacy.vectors import split_like
from fedsim.runtime import AppSpec
from fedsim.runtime.spec import acting_as, node_id
from tests.support.tasks import task_of

BASE = """
[data]
clients = 6
partition = "iid"
[model]
name = "tests.support.models:averaging"
[client]
batch-size = 1000
learning-rate = 0.2
[server]
cohort = 6
"""
DP_SGD = BASE + "[privacy.dp-sgd]\nnoise-multiplier = 1.0\ndelta = 1e-4\n"


def trained(text: str, *overrides: str, **config: Any) -> tuple[RecordDict, dict[str, torch.Tensor]]:
    """Return what a client of a new process answers to a train message, and the model that it got."""
    experiment = Experiment.from_toml(text, overrides)
    _client_runtime.cache_clear()
    spec = AppSpec(6, dict(experiment.to_run_config()))
    state = initial_state(experiment, task_of(experiment), prepare(experiment).spec)
    model = {name: torch.from_numpy(array).clone() for name, array in state.values().items()}
    settings = ConfigRecord({"server-round": 1, **config})
    content = RecordDict({"arrays": ArrayRecord(model), "config": settings})
    with acting_as(1):
        reply = app(Message(content, node_id(0), MessageType.TRAIN), spec.context(0))
    return reply.content, model


def arrays(content: RecordDict) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in content.array_records["arrays"].items()}


# --- what is not trained ----------------------------------------------------------------------------------

LATE = "model.least=17"  # batches of so many are not looked at when a model is checked


def test_what_training_moves_without_noise_does_not_leave() -> None:
    content, received = trained(DP_SGD, LATE)
    sent = arrays(content)
    assert list(sent) == ["2.weight", "2.bias"]
    assert (sent["2.weight"] != received["2.weight"].numpy()).any()


def test_what_a_pass_has_changed_before_it_is_seen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.frozen changes in a pass forward"):
        trained(DP_SGD)


def test_buffers_and_frozen_parameters_are_put_back_into_their_tensors() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    with torch.no_grad():
        model[1].running_mean.copy_(torch.tensor([float("nan"), -0.0]))
    state = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    untrained = Untrained(model)
    mean = model[1].running_mean
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model[1].running_mean = torch.ones(2)  # and the tensor that was there has been changed before
    untrained.put_back()
    assert model[1].running_mean is mean
    for name, (tensor, before) in state.items():
        same = tensor.detach().numpy().tobytes() == before.detach().numpy().tobytes()
        assert same == (name not in ("0.weight", "1.weight", "1.bias"))


@pytest.mark.parametrize("mechanism", ["dp-fedavg", "dp-ftrl", "local-dp"])
def test_where_a_client_is_protected_a_buffer_is_clipped_with_the_rest(mechanism: str) -> None:
    def update(clip: float) -> dict[str, np.ndarray]:
        # What local-dp adds is far below what is compared.
        text = BASE + f"[privacy.{mechanism}]\nclip = {clip}\nnoise-multiplier = 1e-9\ndelta = 1e-3\n"
        if mechanism == "dp-ftrl":
            text += "min-separation = 3\n"
            text = text.replace("cohort = 6", "cohort = 2\nsampling = 'b-min-sep'")
        content, received = trained(text, **{"clip-norm": clip})
        if mechanism == "local-dp":
            return {name: array - received[name].numpy() for name, array in arrays(content).items()}
        assert list(content.array_records) == [VECTOR]
        shapes = {name: tuple(array.shape) for name, array in received.items()}
        return split_like(content.array_records[VECTOR][VECTOR].numpy(), shapes)

    free, clipped = update(1e4), update(0.5)
    norm = np.sqrt(sum(np.square(part.astype(np.float64)).sum() for part in free.values()))
    assert norm > 1.0
    assert np.abs(free["1.mean"]).max() > 0.1
    for name, part in clipped.items():
        np.testing.assert_allclose(part, free[name] * 0.5 / norm, atol=1e-4)


# --- masks ------------------------------------------------------------------------------------------------

DROPPING = ("model.name=tests.support.models:dropping", "client.batch-size=20")
TABLES = {
    "dp-sgd": "[privacy.dp-sgd]\nnoise-multiplier = 1.0\ndelta = 1e-4\n",
    "dp-fedavg": "[privacy.dp-fedavg]\nclip = 0.5\nnoise-multiplier = 1.0\ndelta = 1e-3\n",
    "local-dp": "[privacy.local-dp]\nclip = 0.5\nnoise-multiplier = 1.0\ndelta = 1e-3\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_masks_come_from_the_operating_system_where_the_noise_does(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[bytes] = []
    real = nn.Dropout.forward

    def dropout(self: nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        made = real(self, torch.ones_like(x))
        masks.append(made.numpy().tobytes())
        return made * x

    def of(noise: str) -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr("fedsim.privacy.dp_sgd.gradient.Independence.check", lambda *_: None)
            patch.setattr(nn.Dropout, "forward", dropout)
            masks.clear()
            before = torch.default_generator.get_state()
            trained(BASE + TABLES[table], *DROPPING, f"privacy.noise={noise}", **{"clip-norm": 1.0})
            assert torch.equal(before, torch.default_generator.get_state())
        return b"".join(masks)

    # DP-SGD's batches are secret where its noise is: then the masks differ in their number too.
    seeded = [of("seeded") for _ in range(2)]
    secret = [of("os") for _ in range(2)]
    assert seeded[0] == seeded[1]
    shortest = min(map(len, (*seeded, *secret)))
    assert shortest > 1000
    assert len({each[:shortest] for each in (seeded[0], *secret)}) == 3


def test_seeded_masks_are_what_they_were() -> None:
    """The stream of the seed, the round and the client, which PyTorch's default generator is seeded with."""
    from fedsim.streams import torch_draws_from, torch_stream

    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(torch_stream(7, "dropout", round_=2, client=3).initial_seed())
    expected = nn.functional.dropout(torch.ones(999))
    torch.default_generator.set_state(state)
    with torch_draws_from(7, "dropout", round_=2, client=3):
        assert torch.equal(nn.functional.dropout(torch.ones(999)), expected)


def test_masks_are_drawn_though_the_model_was_evaluated_before() -> None:
    text, overrides = BASE + TABLES["dp-sgd"], DROPPING
    plain, evaluated = (arrays(trained(text, *overrides, **c)[0]) for c in ({}, {"initial-loss": True}))
    assert all(np.array_equal(plain[name], evaluated[name]) for name in plain)
