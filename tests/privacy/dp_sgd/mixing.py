"""Models and losses that mix examples, and the former check, which accepted them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.privacy.dp_sgd.models import losses

Mix = Callable[[Tensor], Tensor]


class Meeting(nn.Module):
    """Two layers, and between them something that examples do to each other; with dropout or without."""

    def __init__(self, mix: Mix | nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.mix, self.dropout = mix, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.dropout(self.mix(torch.tanh(self.first(x)))))
        return logits


def _largest(h: Tensor) -> Tensor:
    chosen = torch.zeros(len(h), 1)
    chosen[h.detach().norm(dim=1).argmax()] = 1.0
    return h * (1 + chosen)


def _normalised(h: Tensor) -> Tensor:
    return (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-2).sqrt()


class Running(nn.Module):
    """A normalisation by the batch, which keeps running statistics as batch norm does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.mean: Tensor

    def forward(self, h: Tensor) -> Tensor:
        self.mean.lerp_(h.detach().mean(0), 0.1)
        return _normalised(h)


MIXES: dict[str, Mix] = {
    "batch mean": lambda h: h + h.mean(0),
    "small batch mean": lambda h: h + 1e-3 * h.mean(0),
    "detached batch mean": lambda h: h + h.mean(0).detach(),
    "gradient of a batch mean": lambda h: h + h.mean(0) - h.mean(0).detach(),
    "factor of the batch's size": lambda h: h / len(h),
    "argmax over the batch": _largest,
    "batch max": lambda h: h - h.max(0).values,
    "sort over the batch": lambda h: h.sort(0).values,
    "normalisation": _normalised,
    "neighbour": lambda h: h + 0.1 * h.roll(1, 0),
    "place in the batch": lambda h: h * torch.arange(1, 1 + len(h)).unsqueeze(1),
    "number of different examples": lambda h: h * len(torch.unique(h[:, 0])),
}


def mean_of_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Losses of which each is in the others."""
    each = losses(outputs, labels)
    return each + each.mean().detach() * each


def losses_over_the_batch(outputs: Tensor, labels: Tensor) -> Tensor:
    """Losses whose sum is the batch's mean."""
    return losses(outputs, labels) / len(labels)


def losses_by_label(outputs: Tensor, labels: Tensor) -> Tensor:
    """Losses divided by how often their label is in the batch."""
    return losses(outputs, labels) / (labels == labels.unsqueeze(1)).sum(0)


def former_check(model: nn.Module, x: Tensor, y: Tensor, norm: float) -> bool:
    """Return whether the former check let a model pass: by the norm of one example's gradient, to one percent.

    Args:
        model: One that draws random numbers was let pass.
        x: One example.
        y: Its label.
        norm: What the kernel found in a batch.
    """

    def alone() -> float:
        gradients = torch.autograd.grad(losses(model(x), y).sum(), list(model.parameters()))
        return float(torch.stack([g.norm() for g in gradients]).norm())

    first, second = alone(), alone()
    return first != second or abs(first - norm) <= 0.01 * max(first, 1e-3)
