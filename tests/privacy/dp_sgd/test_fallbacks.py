"""Layers that no kernel knows, or that are used as none expects, have autograd's gradients of one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opacus.layers import DPGRU, DPLSTM
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from fedsim.experiments.random_models.gradients import clipped_sum_by_autograd
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.rounding import KEPT
from tests.privacy.dp_sgd.models import difference, losses

CLIP = 0.5
BATCH, STEPS, WIDTH = 5, 5, 8  # as many steps as examples: their places must not be taken for each other
Forward = Callable[[Any, Tensor], Tensor]


class Model(nn.Module):
    """These layers, and a head, in a forward pass of one line."""

    def __init__(self, forward: Forward, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head, self._forward = nn.Linear(WIDTH, 3), forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


class Scale(nn.Module):
    """A layer of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def _without_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        before = m.a(x)
    return m.head(before + x)


def _transformer(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    model = Model(
        lambda m, x: m.head(m.encoder(m.embedding(x), mask=m.mask, is_causal=True).mean(1)),
        embedding=nn.Embedding(7, WIDTH),
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    )
    model.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(STEPS))
    return model


def _tied() -> nn.Module:
    model = Model(lambda m, x: m.head(m.b(m.a(x).tanh()).tanh()), a=_square(), b=_square())
    model.b.weight = model.a.weight
    return model


def _square(**options: Any) -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH, **options)


def _after(layer: nn.Module) -> nn.Module:
    """Return a model with this layer before its head."""
    return Model(lambda m, x: m.head(m.a(x).tanh()), a=layer)


def _recurrent(layer: nn.Module) -> nn.Module:
    return Model(lambda m, x: m.head(m.a(x)[0][:, -1]), a=layer)


def _table(padding: int | None) -> nn.Module:
    return Model(
        lambda m, x: F.linear(m.a(m.e(x).mean(1)).relu(), m.e.weight),
        e=nn.Embedding(7, WIDTH, padding_idx=padding),
        a=_square(),
    )


ROWS, SERIES, TOKENS = (BATCH, WIDTH), (BATCH, STEPS, WIDTH), (BATCH, STEPS)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "group norm on (B, C)": (lambda: _after(nn.GroupNorm(2, WIDTH)), ROWS),
    "by keyword": (lambda: Model(lambda m, x: m.head(m.a(input=x).tanh()), a=_square()), ROWS),
    "no_grad": (lambda: Model(_without_gradient, a=_square()), ROWS),
    "two dtypes": (
        lambda: Model(lambda m, x: m.head(m.a(x.double()).float()), a=_square(dtype=torch.float64)),
        ROWS,
    ),
    "weight norm": (lambda: _after(weight_norm(_square())), ROWS),
    "weight norm as a parametrization": (lambda: _after(parametrizations.weight_norm(_square())), ROWS),
    "spectral norm": (lambda: _after(spectral_norm(_square())), ROWS),
    "spectral norm as a parametrization": (lambda: _after(parametrizations.spectral_norm(_square())), ROWS),
    "a table as head": (lambda: _table(None), TOKENS),
    "a padded table as head": (lambda: _table(2), TOKENS),
    "weight outside of its layer": (
        lambda: Model(lambda m, x: m.head(m.a(x) @ m.a.weight), a=_square()),
        ROWS,
    ),
    "tied": (_tied, ROWS),
    "called twice": (lambda: Model(lambda m, x: m.head(m.a(m.a(x).tanh())), a=_square()), ROWS),
    "steps first": (
        lambda: Model(lambda m, x: m.head(m.a(x.transpose(0, 1)).tanh().mean(0)), a=_square()),
        SERIES,
    ),
    "own layer": (lambda: _after(Scale()), ROWS),
    "own parameter": (
        lambda: Model(
            lambda m, x: m.head((x + m.p).tanh().mean(1)), p=nn.Parameter(torch.ones(STEPS, WIDTH))
        ),
        SERIES,
    ),
    "DPGRU": (lambda: _recurrent(DPGRU(WIDTH, WIDTH, batch_first=True)), SERIES),
    "DPLSTM": (lambda: _recurrent(DPLSTM(WIDTH, WIDTH, batch_first=True)), SERIES),
    "gru": (lambda: _recurrent(nn.GRU(WIDTH, WIDTH, batch_first=True)), SERIES),
    "gru, steps first": (
        lambda: Model(lambda m, x: m.head(m.a(x.transpose(0, 1))[1][0]), a=nn.GRU(WIDTH, WIDTH)),
        SERIES,
    ),
    "rnn in both directions": (
        lambda: _recurrent(nn.RNN(WIDTH, 4, 2, bidirectional=True, batch_first=True)),
        SERIES,
    ),
    "lstm with projections": (
        lambda: _recurrent(nn.LSTM(WIDTH, 9, proj_size=WIDTH, batch_first=True)),
        SERIES,
    ),
    "bags": (lambda: Model(lambda m, x: m.head(m.a(x)), a=nn.EmbeddingBag(7, WIDTH)), TOKENS),
    "attention": (
        lambda: Model(
            lambda m, x: m.head(m.a(x, x, x)[0][:, -1]), a=nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        ),
        SERIES,
    ),
    "transformer with a causal mask": (lambda: _transformer(False), TOKENS),
    "transformer, norms first": (lambda: _transformer(True), TOKENS),
    "circular padding": (
        lambda: Model(
            lambda m, x: m.head(m.a(x).mean(1)), a=nn.Conv1d(STEPS, 4, 3, padding=1, padding_mode="circular")
        ),
        SERIES,
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(1)
    yield
    torch.set_rng_state(before)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("kernel", ["fast", "opacus"])
@pytest.mark.parametrize("name", MODELS)
def test_the_clipped_sum_is_autograds(name: str, kernel: Any) -> None:
    make, shape = MODELS[name]
    model = make()
    x = torch.randint(7, shape) if shape == TOKENS else torch.randn(shape)
    y = torch.randint(3, (BATCH,))
    private = PrivateGradient(model, losses, clip=CLIP / KEPT, kernel=kernel)
    buffers = [(b, b.clone()) for b in model.buffers()]
    private(x, y, noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for buffer, values in buffers:  # as `PrivateSteps.stepped` does
        buffer.copy_(values)
    expected = clipped_sum_by_autograd(model, losses, x, y, CLIP)
    assert difference(found, expected) < 1e-5
    assert not any("_compiled_call_impl" in vars(m) for m in model.modules())


def test_dropout_within_attention_has_the_mask_of_the_pass() -> None:
    """All dropped but the head's bias: its gradient is that of the softmax at the bias, and the layer's own is zero."""
    attention = nn.MultiheadAttention(WIDTH, 2, dropout=1.0, batch_first=True)
    model = Model(lambda m, x: m.head(m.a(x, x, x)[0][:, -1]), a=attention)
    x, y = torch.randn(SERIES), torch.randint(3, (BATCH,))
    private = PrivateGradient(model, losses, clip=100.0)
    private(x, y, noise_multiplier=0.0, denominator=1.0, noise=torch.zero_)
    assert not attention.in_proj_weight.grad.any()
    given = (model.head.bias + model.head.weight @ attention.out_proj.bias).softmax(0)
    expected = BATCH * given - F.one_hot(y, 3).sum(0)
    assert difference([model.head.bias.grad], [expected.detach()]) < 1e-5
