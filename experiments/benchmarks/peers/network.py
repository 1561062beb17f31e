"""The CNN and its local training in plain PyTorch, for all competitors except fedsim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.experiments.benchmarks.work import Work


def network(
    weights: Iterable[NDArray[np.float32]] | None = None, channels_last: bool = False
) -> nn.Sequential:
    """Return the CNN of 215,370 parameters, for images `(batch, 1, 28, 28)`.

    Args:
        weights: Initial weights, in the order of its parameters; unset: PyTorch's own.
        channels_last: Keep weights and activations with their channels last in memory.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if weights is not None:
        fill(list(model.parameters()), [torch.from_numpy(array) for array in weights])
    return model


def fill(parameters: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Copy weights into parameters, one by one."""
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)


def count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    batch: int,
    shuffle: np.random.Generator,
) -> float:
    """Run one epoch of SGD over a client's examples, in place, and return the mean loss of its steps (nats)."""
    order = torch.from_numpy(shuffle.permutation(len(x)))
    total = 0.0
    for start in range(0, len(x), batch):
        chosen = order[start : start + batch]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
    return total / -(-len(x) // batch)


def central_loss(model: nn.Module, work: Work) -> float:
    """Return the mean cross-entropy (nats) on the test set."""
    x, y = work.test()
    with torch.inference_mode():
        return float(F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y)))
