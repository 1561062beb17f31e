"""Local SGD: what a client does with its examples in a round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.data import Examples
from fedsim.models import loss
from fedsim.sections import ClientSection


@dataclass(frozen=True)
class Trained:
    """What local training reports: the mean loss over its steps (nats), and how many steps there were."""

    loss: float
    steps: int


def sgd(model: nn.Module, settings: ClientSection) -> torch.optim.Optimizer:
    """Return the optimiser of a model's parameters; `begin` before each use."""
    return torch.optim.SGD(
        (p for p in model.parameters() if p.requires_grad),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def begin(optimizer: torch.optim.Optimizer, settings: ClientSection, round_: int) -> None:
    """Make an optimiser forget, and set a round's rate: `learning_rate * learning_rate_decay ** (round_ - 1)`."""
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * settings.learning_rate_decay ** (round_ - 1)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    settings: ClientSection,
    shuffle: np.random.Generator,
    proximal_mu: float,
) -> Trained:
    """Run SGD on a client's examples, in place.

    Each step descends `mean cross-entropy + mu/2 ||w - w_t||^2`, with w_t the weights on entry (FedProx, Li et
    al. 2020). Batches are a fresh permutation of the examples each pass.

    Args:
        model: Holds the round's global weights, and the trained ones afterwards.
        optimizer: Of the model's parameters, just begun.
        examples: At least one.
        settings: Passes or steps, and batch size.
        shuffle: Orders the examples.
        proximal_mu: The mu above, at least 0.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    received = [p.detach().clone() for p in parameters] if proximal_mu > 0 else []
    inputs, labels = examples.tensors()
    total, steps = 0.0, 0
    for batch in _batches(len(examples), settings, shuffle):
        optimizer.zero_grad()
        value = loss(model(inputs[batch]), labels[batch])
        value.backward()  # type: ignore[no-untyped-call]
        _pull(parameters, received, proximal_mu)
        optimizer.step()
        total += value.item()
        steps += 1
    return Trained(loss=total / steps, steps=steps)


def _pull(parameters: list[nn.Parameter], received: list[Tensor], mu: float) -> None:
    """Add the gradient of the proximal term, `mu (w - w_t)`."""
    for parameter, anchor in zip(parameters, received, strict=False):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=mu)


def _batches(
    examples: int, settings: ClientSection, shuffle: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of each step's examples."""
    size = min(settings.batch_size, examples)
    steps = settings.steps or settings.epochs * -(-examples // size)
    done = 0
    while True:
        order = shuffle.permutation(examples)
        for start in range(0, examples, size):
            if done == steps:
                return
            yield order[start : start + size]
            done += 1
