import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.catalogue import Kind
from fedsim.clients.training import PlainKernel, _batches, train
from fedsim.data import DataSpec, Examples
from fedsim.optimizers.build import build_optimizer
from fedsim.privacy.halves import ClientRound
from fedsim.schedules.rate import learning_rate
from fedsim.sections import ClientSection
from tests.support.tasks import plain

X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]], dtype=np.float32)
Y = np.array([0, 1, 2, 0])
TASK = plain(DataSpec(kind=Kind.FEATURES, shape=(2,), classes=3))


def model() -> torch.nn.Module:
    layer = torch.nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, -0.2], [0.3, 0.0], [-0.1, 0.2]]))
        layer.bias.zero_()
    return layer


def softmax_regression(steps: list[list[int]], settings: ClientSection, mu: float, round_: int) -> np.ndarray:
    """Do the same by the formulas: gradient, weight decay, proximal pull, momentum, step. Returns (W | b)."""
    start = np.array([[0.1, -0.2, 0.0], [0.3, 0.0, 0.0], [-0.1, 0.2, 0.0]])
    w, velocity = start.copy(), np.zeros_like(start)
    x1 = np.hstack([X, np.ones((4, 1))])
    for batch in steps:
        logits = x1[batch] @ w.T
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        gradient = (p - np.eye(3)[Y[batch]]).T @ x1[batch] / len(batch)
        gradient += mu * (w - start) + settings.weight_decay * w
        velocity = settings.momentum * velocity + gradient
        w = w - settings.learning_rate * settings.learning_rate_decay ** (round_ - 1) * velocity
    return w


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("round_", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"learning_rate_decay": 0.5}, {"momentum": 0.9, "weight_decay": 0.2}]
)  # fmt: skip
def test_sgd_is_what_the_formulas_say(options: dict[str, float], mu: float, round_: int) -> None:
    settings = ClientSection(epochs=3, batch_size=3, learning_rate=0.4, **options)
    net = model()
    for _ in range(2):  # the second time as if there had been no first
        net.load_state_dict(model().state_dict())
        optimizer = build_optimizer(settings, list(net.parameters()), learning_rate(settings, 3, round_))
        at = ClientRound(round=round_, client=0, records=4, instructions={})
        kernel = PlainKernel(net, TASK.loss, settings.work, lambda _: np.random.default_rng(1))
        steps = kernel.steps(*TASK.tensors(Examples(X, Y, Kind.FEATURES)), at)
        trained = train(net, optimizer, steps, mu)
    order = [batch.tolist() for batch in _batches(4, settings.work, np.random.default_rng(1))]
    assert trained.steps == len(order) == 6
    ours = np.hstack([net.weight.detach().numpy(), net.bias.detach().numpy()[:, None]])
    np.testing.assert_allclose(ours, softmax_regression(order, settings, mu, round_), rtol=1e-4, atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 4))
def test_a_pass_sees_every_example_once(examples: int, batch_size: int, epochs: int) -> None:
    settings = ClientSection(epochs=epochs, batch_size=batch_size)
    batches = list(_batches(examples, settings.work, np.random.default_rng(0)))
    assert np.bincount(np.concatenate(batches), minlength=examples).tolist() == [epochs] * examples
    assert max(map(len, batches)) <= batch_size


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 60))
def test_steps_count_instead_of_passes(examples: int, batch_size: int, steps: int) -> None:
    settings = ClientSection(steps=steps, epochs=7, batch_size=batch_size)
    assert len(list(_batches(examples, settings.work, np.random.default_rng(0)))) == steps
