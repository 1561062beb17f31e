import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim import Experiment, Refused
from fedsim.catalogue import Kind
from fedsim.data import DataSpec, Examples
from fedsim.models import build, initial_model
from fedsim.sections import ModelSection
from fedsim.streams import torch_draws_from
from fedsim.tasks import Task
from fedsim.tasks.scoring import evaluation_mode, score
from tests.support.models import Merging
from tests.support.tasks import plain

MNIST = plain(DataSpec(kind=Kind.IMAGE, shape=(1, 28, 28), classes=10))
TEXT = plain(DataSpec(kind=Kind.TEXT, shape=(7,), classes=98, vocabulary=98, per_token=True))


def seeded(section: ModelSection, task: Task) -> torch.nn.Module:
    """Build a model in float64 whose weights are the same in every session."""
    with torch_draws_from(0, "initial-weights"):
        return build(section, task).double()


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("linear", 784 * 10 + 10),
        ("mlp", 199_210),  # McMahan et al. 2017, section 3: "199,210 total parameters"
        ("cnn", 1_663_370),  # the same: "1,663,370 total parameters"
    ],
)
def test_the_papers_models_have_the_papers_parameters(name: str, count: int) -> None:
    assert parameters(build(ModelSection(name=name), MNIST)) == count


@pytest.mark.parametrize(
    ("options", "hidden"),
    [({"width": 0.5}, 256), ({"width": 0.5, "hidden": 128}, 128), ({"hidden": 3}, 3), ({"width": 0.001}, 1)],
)
def test_hidden_units_follow_the_width_or_are_given(options: dict[str, float], hidden: int) -> None:
    first, second = (max(round(size * options.get("width", 1.0)), 1) for size in (32, 64))
    convolutions = (25 * first + first) + (25 * first * second + second)
    assert parameters(build(ModelSection(name="cnn", **options), MNIST)) == (
        convolutions + (49 * second * hidden + hidden) + (hidden * 10 + 10)
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 9)])
@pytest.mark.parametrize("options", [{}, {"width": 0.25, "group-norm": True}])
def test_the_cnn_adapts_to_its_images(shape: tuple[int, int, int], options: dict[str, float]) -> None:
    model = build(
        ModelSection(name="cnn", **options), plain(DataSpec(kind=Kind.IMAGE, shape=shape, classes=7))
    )
    assert model(torch.zeros(4, *shape)).shape == (4, 7)


def test_the_cnn_computes_what_its_docstring_says() -> None:
    task = plain(DataSpec(kind=Kind.IMAGE, shape=(2, 5, 6), classes=3))
    model = seeded(ModelSection(name="cnn", width=0.05), task)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 6))

    def block(x: np.ndarray, name: str) -> np.ndarray:
        weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
        _, height, width = x.shape
        padded = np.pad(x, ((0, 0), (2, 2), (2, 2)))
        z = np.zeros((len(weight), height, width))
        for k in range(len(weight)):
            for i in range(height):
                for j in range(width):
                    z[k, i, j] = bias[k] + (weight[k] * padded[:, i : i + 5, j : j + 5]).sum()
        pooled = (
            z[:, : height // 2 * 2, : width // 2 * 2]
            .reshape(len(z), height // 2, 2, width // 2, 2)
            .max((2, 4))
        )
        return np.maximum(pooled, 0)

    features = block(block(x[0], "block1"), "block2").ravel()
    hidden = np.maximum(state["hidden.weight"] @ features + state["hidden.bias"], 0)
    logits = state["output.weight"] @ hidden + state["output.bias"]
    computed = model(torch.from_numpy(x)).detach().numpy()[0]
    np.testing.assert_allclose(computed, logits, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_lstm_computes_what_its_docstring_says(layers: int) -> None:
    model = seeded(ModelSection(name="lstm", embedding=3, hidden=4, layers=layers), TEXT)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tokens = np.array([5, 97, 0, 5])
    sequence = state["embedding.weight"][tokens]

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    for layer in range(layers):
        u, v = state[f"layers.weight_ih_l{layer}"], state[f"layers.weight_hh_l{layer}"]
        b = state[f"layers.bias_ih_l{layer}"] + state[f"layers.bias_hh_l{layer}"]
        h, c, states = np.zeros(4), np.zeros(4), []
        for e in sequence:
            i, f, g, o = np.split(u @ e + v @ h + b, 4)  # PyTorch's order of the gates
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        sequence = np.array(states)
    logits = sequence @ state["output.weight"].T + state["output.bias"]
    computed = model(torch.from_numpy(tokens)[None]).detach().numpy()[0]
    np.testing.assert_allclose(computed, logits, rtol=1e-10, atol=1e-14)


def test_the_lstm_classifies_whole_texts_too() -> None:
    task = plain(DataSpec(kind=Kind.TEXT, shape=(7,), classes=3, vocabulary=98))
    assert build(ModelSection(name="lstm"), task)(torch.zeros(2, 7, dtype=torch.long)).shape == (2, 3)


def test_initial_weights_come_from_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.default_generator.get_state()
    first, again, other = (initial_model(Experiment(seed=s), MNIST).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hidden.weight"], other["hidden.weight"])
    assert torch.equal(before, torch.default_generator.get_state())


def test_a_users_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\n"
        "def build(task, units_per_class=1):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, units_per_class * task.outputs.size))\n"
        "def wrong(task):\n    return 'no model'\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    model = build(ModelSection(name="own_models:build", **{"units-per-class": 2}), MNIST)
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 20)
    with pytest.raises(Refused, match="unexpected keyword argument 'depth'"):
        build(ModelSection(name="own_models:build", depth=2), MNIST)
    with pytest.raises(Refused, match=r"returned str; a torch\.nn\.Module is needed"):
        build(ModelSection(name="own_models:wrong"), MNIST)


def test_loss_and_score_by_hand() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[:, 0], torch.zeros(len(x))], dim=1)

    # Logits (ln 3, 0) and (0, 0): probabilities 3/4 and 1/2 of label 0.
    x = np.array([[math.log(3.0)], [0.0]], dtype=np.float32)
    task = plain(DataSpec(kind=Kind.FEATURES, shape=(1,), classes=2))
    result = score(Fixed(), task, Examples(x, np.array([0, 1]), Kind.FEATURES))
    assert result.loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-6)
    assert (result.metrics, result.predictions) == ({"accuracy": 0.5}, 2)
    assert task.loss(Fixed()(torch.from_numpy(x)), torch.tensor([0, 1])).item() == pytest.approx(
        result.loss, rel=1e-6
    )


def test_the_score_has_the_same_bits_on_any_number_of_threads() -> None:
    generator = np.random.default_rng(0)
    examples = Examples(
        generator.random((2345, 1, 8, 8), dtype=np.float32), generator.integers(0, 10, 2345), Kind.IMAGE
    )
    task = plain(DataSpec(kind=Kind.IMAGE, shape=(1, 8, 8), classes=10))
    model = initial_model(Experiment(), task)
    first, *others = (score(model, task, examples, threads) for threads in (1, 2, 5))
    assert others == [first, first]


def test_a_model_that_changes_with_its_mode_is_told_of_both() -> None:
    model = Merging(2, 2)
    before = model.layer.weight.detach().clone()
    with evaluation_mode(model):
        assert torch.equal(model.layer.weight, 2 * before)
    assert model.training
    assert torch.equal(model.layer.weight, before)
