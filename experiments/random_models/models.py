"""Random small models of `torch.nn` layers, with buffers, ties and frozen parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from fedsim.streams import numpy_stream
from fedsim.tasks import Task

ROWS, WIDTH = 8, 8  # of an image of digits: a sequence of rows


class Extras(nn.Module):
    """Buffers of each kind: a constant, a mask of minus infinity, a counter, a running mean, and one outside the state."""

    scale: Tensor
    mean: Tensor
    steps: Tensor
    calls: Tensor

    def __init__(self, width: int, kinds: frozenset[str]) -> None:
        super().__init__()
        self.kinds = kinds
        self.register_buffer("scale", torch.full((width,), 0.5))
        self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
        self.register_buffer("positions", torch.arange(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled inputs, `(..., width)`."""
        if self.training and "moving" in self.kinds:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.detach().reshape(-1, x.shape[-1]).mean(0))
        if self.training and "counting" in self.kinds:
            self.steps += 1
            self.calls = self.calls + 1
        return x * self.scale


class Recurrent(nn.Module):
    """A recurrent layer's outputs, `(B, rows, width)`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return all outputs of a sequence."""
        outputs: Tensor = self.layer(x)[0]
        return outputs


class SelfAttention(nn.Module):
    """Causal self-attention over a sequence, with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.register_buffer("mask", torch.full((ROWS, ROWS), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, rows, width)`."""
        outputs: Tensor = self.attention(x, x, x, attn_mask=self.mask, need_weights=False)[0]
        return x + outputs


class Levels(nn.Module):
    """An embedding of grey levels, with a row of padding, added to a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(5, width, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, rows, width)`."""
        levels: Tensor = self.table((x[..., 0].detach().clamp(0, 1) * 4.99).long())
        return x + levels


class Over(nn.Module):
    """A layer for `(B, channels, ...)` over the last axis of a sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, rows, width)`."""
        outputs: Tensor = self.layer(x.transpose(1, 2))
        return outputs.transpose(1, 2)


class Model(nn.Module):
    """Blocks over the rows of an image, and a linear layer for the classes."""

    def __init__(self, blocks: list[nn.Module], width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, width)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, `(B, classes)`."""
        x = self.embed(x.reshape(-1, ROWS, WIDTH))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


def block(draw: np.random.Generator, width: int) -> nn.Module:
    """Return a random layer from `(B, rows, width)` to the same shape."""
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.Sequential(nn.Linear(width, width), nn.ReLU()),
        lambda: nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh(), nn.Dropout(0.2)),
        lambda: nn.LayerNorm(width),
        lambda: Over(nn.GroupNorm(2, width)),
        lambda: Over(nn.BatchNorm1d(width)),
        lambda: Over(nn.InstanceNorm1d(width, affine=True)),
        lambda: Over(nn.Conv1d(width, width, 3, padding=1)),
        lambda: Over(nn.Conv1d(width, width, 3, padding=1, groups=2)),
        lambda: Recurrent(nn.LSTM(width, width, batch_first=True)),
        lambda: Recurrent(nn.GRU(width, width, batch_first=True)),
        lambda: Recurrent(nn.RNN(width, width, batch_first=True)),
        lambda: SelfAttention(width, 2),
        lambda: nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True),
        lambda: Levels(width),
        lambda: nn.PReLU(),
        lambda: weight_norm(nn.Linear(width, width)),
        lambda: spectral_norm(nn.Linear(width, width)),
        lambda: Extras(width, frozenset({"moving", "counting"})),
        lambda: Extras(width, frozenset()),
    ]
    return kinds[draw.integers(len(kinds))]()


def build(task: Task, number: int) -> nn.Module:
    """Return the random model of a number, for an experiment file."""
    return model_of(number, task.outputs.size)


def model_of(number: int, classes: int) -> nn.Module:
    """Return the random model of a number; two linear layers may be tied, and a block may be frozen."""
    draw = numpy_stream(0, "random-model", round_=number)
    width = int(draw.choice([4, 8, 12]))
    blocks = [block(draw, width) for _ in range(draw.integers(1, 5))]
    if draw.random() < 0.25:
        one, other = nn.Linear(width, width), nn.Linear(width, width)
        other.weight = one.weight
        blocks += [one, nn.ReLU(), other]
    if draw.random() < 0.25:
        blocks[draw.integers(len(blocks))].requires_grad_(False)
    return Model(blocks, width, classes)
