"""What of a model's state training may change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.models.state import ModelState


class Moving(nn.Module):
    """Has a buffer that is replaced in a forward pass, one that is none of the state, and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("hidden", torch.zeros(()), persistent=False)
        self.register_buffer("unknown", torch.tensor([np.nan, np.inf]))
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("nothing_else", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + len(x)
        self.hidden += 1
        return self.layer(x)


def state_of(model: nn.Module) -> ModelState:
    return ModelState(model, lambda: model(torch.ones(3, 2)))


def test_buffers_that_a_forward_pass_changes_are_statistics() -> None:
    state = state_of(Moving())
    assert state.parameters == ("layer.weight", "layer.bias")
    assert state.statistics == ("seen",)
    assert state.constants == ("unknown", "nothing", "nothing_else")
    assert set(state.names) == {*state.parameters, *state.statistics}
    assert state.values()["seen"] == 0, "the trial leaves no trace"


def test_each_load_starts_from_the_same_state() -> None:
    model = Moving()
    state = state_of(model)
    before = {name: array.copy() for name, array in state.values().items()}
    for _ in range(2):
        assert float(model.hidden) == 0
        model(torch.ones(3, 2))
        assert state.values()["seen"] == 3
        assert state.load(before) == ["hidden"]
    assert state.values()["seen"] == 0


def test_ties_are_loaded_once_and_written_under_every_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    state = state_of(model)
    assert state.names == ("0.weight", "0.bias", "1.bias")
    whole = state.complete({name: np.full_like(array, 7) for name, array in state.values().items()})
    assert list(whole) == list(model.state_dict())
    assert all((array == 7).all() for array in whole.values())


def test_bfloat16_travels_as_float32() -> None:
    model = nn.Linear(2, 1).bfloat16()
    state = ModelState(model, lambda: None)
    assert {array.dtype for array in state.values().values()} == {np.dtype(np.float32)}
    state.load({"weight": np.array([[0.5, -3.0]], np.float32), "bias": np.array([2.0], np.float32)})
    assert model.weight.tolist() == [[0.5, -3.0]]
    assert model.bias.dtype is torch.bfloat16


def test_constants_are_told_apart_by_a_hash() -> None:
    one, other = Moving(), Moving()
    assert state_of(one).constants_sha256 == state_of(other).constants_sha256
    other.unknown[1] = 4
    assert state_of(one).constants_sha256 != state_of(other).constants_sha256


def test_a_model_without_a_trained_parameter() -> None:
    with pytest.raises(ValueError, match="no parameter that is trained"):
        ModelState(nn.Linear(2, 1).requires_grad_(False), lambda: None)


def test_a_padding_row_is_one_only_if_no_other_layer_trains_it() -> None:
    model = nn.Sequential(nn.Embedding(4, 2, padding_idx=0), nn.Linear(2, 4, bias=False))
    assert ModelState(model, lambda: None).padding == {"0.weight": 0}
    model[1].weight = model[0].weight
    assert ModelState(model, lambda: None).padding == {}


class Keeping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.count, self.seen, self.cache = 0, {"sizes": [1]}, None
        self.generator = np.random.default_rng(3)
        self.alias = self.layer.weight.data
        self.other = [self.layer]  # not put back, as it holds a module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.seen["sizes"].append(len(x))
        self.cache, self.added = x, 1
        self.generator.random()
        self.train(False)
        return self.layer(x)


def test_what_a_forward_pass_leaves_in_attributes_is_put_back() -> None:
    model, x = Keeping(), torch.zeros(3, 2)
    state = ModelState(model, lambda: model(x))
    assert state.unsaved == ("added", "count", "seen", "cache", "generator")
    for _ in range(2):
        model(x)
        model.later = "a kernel's"
        state.load({"layer.weight": np.ones((1, 2), np.float32), "layer.bias": np.zeros(1, np.float32)})
        assert (model.count, model.seen, model.cache) == (0, {"sizes": [1]}, None)
        assert not hasattr(model, "added")
        assert model.later == "a kernel's"
        assert model.training
        assert model.generator.random() == np.random.default_rng(3).random()
        assert model.alias.data_ptr() == model.layer.weight.data_ptr()
        assert model.other[0] is model.layer
