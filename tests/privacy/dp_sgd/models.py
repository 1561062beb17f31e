"""Small models and losses, and a slow reference for a clipped sum: autograd, one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.gradient import Kernel, PrivateGradient
from fedsim.privacy.dp_sgd.independence import Independence
from fedsim.privacy.dp_sgd.rounding import KEPT


def losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each example, over its positions if it has some."""
    each = F.cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction="none")
    return each.view(len(labels), -1).mean(1)


class Recurrent(nn.Module):
    """Embedding (or numbers), an nn.LSTM and a head, at every position or after the last."""

    def __init__(
        self,
        tokens: int,
        size: int,
        hidden: int,
        *,
        layers: int = 1,
        batch_first: bool = True,
        every: bool = True,
    ) -> None:
        super().__init__()
        self.every, self.batch_first = every, batch_first
        self.embedding = nn.Embedding(tokens, size)
        self.lstm = nn.LSTM(size, hidden, layers, batch_first=batch_first)
        self.head = nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embedding(x)
        states, (h, c) = self.lstm(embedded if self.batch_first else embedded.transpose(0, 1))
        states = states if self.batch_first else states.transpose(0, 1)
        return self.head(states if self.every else h[-1] + 0.5 * c[0])


class Images(nn.Module):
    """A convolution with these options, group norm, ReLU and a head."""

    def __init__(self, channels: int, size: int, outputs: int, **options: object) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, outputs, **options)  # type: ignore[arg-type]
        self.norm = nn.GroupNorm(1, outputs, eps=0.1)  # one value alone must not blow rounding up
        shape = self.convolution(torch.zeros(1, channels, size, size)).shape
        self.head = nn.Linear(shape[1:].numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.convolution(x)))
        return self.head(x.flatten(1))


def one_by_one(model: nn.Module, x: Tensor, y: Tensor, clip: float) -> tuple[list[Tensor], list[float]]:
    """Return the clipped sum, and the norms before clipping."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    norms = []
    for i in range(len(x)):
        loss = losses(model(x[i : i + 1]), y[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.cat([g.flatten() for g in gradients]).double().norm().item()
        norms.append(norm)
        for part, gradient in zip(total, gradients, strict=True):
            part += gradient * min(1.0, clip / (norm + 1e-6))
    return total, norms


def step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    clip: float,
    kernel: Kernel,
    *,
    noise_multiplier: float = 0.0,
    denominator: float = 1.0,
    noise: Callable[[Tensor], None] = torch.zero_,
) -> list[Tensor]:
    """Return the gradients of one step in which examples are clipped to `clip`, and noise is made for as much.

    The model is known to let examples be: the check takes many times as long as the step of so small a one.
    """
    private = PrivateGradient(model, losses, clip=clip / KEPT, kernel=kernel, max_batch=max(len(x), 1))
    with mock.patch.object(Independence, "check"):
        private(x, y, noise_multiplier=noise_multiplier * KEPT, denominator=denominator, noise=noise)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Return the largest difference between two lists of tensors."""
    assert len(first) == len(second)
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))
