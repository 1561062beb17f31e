"""Local SGD: what a client does with its examples in a round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.sgd import sgd

from fedsim.data import Examples
from fedsim.sections import ClientSection
from fedsim.tasks import Task


@dataclass(frozen=True)
class Trained:
    """What local training reports: the mean loss over its steps, and how many steps there were."""

    loss: float
    steps: int


class Sgd:
    """SGD over a model's parameters: weight decay, momentum, step; made once, and begun anew by each client.

    The arithmetic is `torch.optim.sgd.sgd`. PyTorch's optimiser class around it would load the compiler, which
    takes longer than many a run, and costs more than the step of a small model.
    """

    def __init__(self, model: nn.Module, settings: ClientSection) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._settings = settings
        self._rate = settings.learning_rate
        self._momenta: dict[Tensor, Tensor | None] = {}

    def begin(self, round_: int) -> None:
        """Forget, and take a round's rate: `learning_rate * learning_rate_decay ** (round_ - 1)`."""
        self._momenta.clear()
        self._rate = self._settings.learning_rate * self._settings.learning_rate_decay ** (round_ - 1)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        moved: list[Tensor] = [p for p in self.parameters if p.grad is not None]
        momenta = [self._momenta.get(p) for p in moved]
        sgd(
            moved,
            [p.grad for p in moved if p.grad is not None],
            momenta,
            weight_decay=self._settings.weight_decay,
            momentum=self._settings.momentum,
            lr=self._rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if self._settings.momentum:
            self._momenta.update(zip(moved, momenta, strict=True))


def train(
    model: nn.Module,
    task: Task,
    optimizer: Sgd,
    examples: Examples,
    settings: ClientSection,
    shuffle: np.random.Generator,
    proximal_mu: float,
) -> Trained:
    """Run SGD on a client's examples, in place.

    Each step descends `mean loss + mu/2 ||w - w_t||^2`, with w_t the weights on entry (FedProx, Li et
    al. 2020). Batches are a fresh permutation of the examples each pass.

    Args:
        model: Holds the round's global weights, and the trained ones afterwards.
        task: Has the loss.
        optimizer: Of the model's parameters, just begun.
        examples: At least one.
        settings: Passes or steps, and batch size.
        shuffle: Orders the examples.
        proximal_mu: The mu above, at least 0.
    """
    if not model.training:
        model.train()
    received = received_weights(optimizer, proximal_mu)
    inputs, targets = task.tensors(examples)
    total, steps = 0.0, 0
    for batch in _batches(len(examples), settings, shuffle):
        optimizer.zero_grad()
        chosen = torch.from_numpy(batch)
        value = task.loss(model(inputs.index_select(0, chosen)), targets.index_select(0, chosen))
        value.backward()  # type: ignore[no-untyped-call]
        pull_to(received, optimizer, proximal_mu)
        optimizer.step()
        total += value.item()
        steps += 1
    return Trained(loss=total / steps, steps=steps)


def received_weights(optimizer: Sgd, mu: float) -> list[Tensor]:
    """Return a copy of the weights to which a proximal term of `mu` pulls; none where it is 0."""
    return [p.detach().clone() for p in optimizer.parameters] if mu > 0 else []


def pull_to(received: list[Tensor], optimizer: Sgd, mu: float) -> None:
    """Add the gradient of the proximal term, `mu (w - w_t)`."""
    for parameter, anchor in zip(optimizer.parameters, received, strict=False):
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
