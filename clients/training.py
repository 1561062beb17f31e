"""Local training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.optimizers import Optimizer
from fedsim.privacy.halves import ClientRound, Steps
from fedsim.privacy.training import LocalWork

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Trained:
    """Report of local training: the mean loss over its steps, and their number."""

    loss: float
    steps: int


def train(
    model: nn.Module,
    optimizer: Optimizer,
    steps: Steps,
    proximal_mu: float,
    after_step: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a model in place.

    Each step descends `loss + mu/2 ||w - w_t||^2`, with w_t the weights on entry (FedProx, Li et al. 2020).

    Args:
        model: Holds the round's global weights, and the trained ones afterwards; in the modes in which it is trained.
        optimizer: Of the model's trainable parameters, made for this training.
        steps: Each sets the gradients of the loss.
        proximal_mu: The mu above, at least 0.
        after_step: Called after each step of the optimizer.

    Raises:
        ValueError: The steps have been taken before.
    """
    received = [(p, p.detach().clone()) for p in _trainable(model)] if proximal_mu > 0 else []
    losses: list[float | None] = []
    for value in steps:
        for parameter, anchor in received:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=proximal_mu)
        optimizer.step()
        after_step()
        steps.stepped()
        losses.append(value)
    return Trained(loss=steps.mean(losses), steps=len(losses))


@dataclass(frozen=True)
class PlainKernel:
    """Mean gradients over batches of a fresh permutation of the examples in each pass.

    Attributes:
        model: Trained in place.
        loss: Maps `(outputs, targets)` to a batch's mean loss.
        work: Passes or steps, and batch size.
        shuffle: Returns the generator that orders a client's examples in a round.
    """

    model: nn.Module
    loss: Loss
    work: LocalWork
    shuffle: Callable[[ClientRound], np.random.Generator]

    def steps(self, inputs: Tensor, targets: Tensor, at: ClientRound) -> PlainSteps:
        """Return the steps of a client's training: `Kernel`."""
        batches = _batches(at.records, self.work, self.shuffle(at))
        return PlainSteps(self.model, self.loss, inputs, targets, batches)


@dataclass(frozen=True)
class PlainSteps:
    """Steps of a local training without privacy."""

    model: nn.Module
    loss: Loss
    inputs: Tensor
    targets: Tensor
    batches: Iterator[NDArray[np.int64]]

    def __iter__(self) -> Iterator[float]:
        """Yield the mean loss of each step's batch: `Steps`."""
        parameters = _trainable(self.model)
        for batch in self.batches:
            for parameter in parameters:
                parameter.grad = None
            chosen = torch.from_numpy(batch)
            inputs, targets = self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen)
            value = self.loss(self.model(inputs), targets)
            value.backward()  # type: ignore[no-untyped-call]
            yield value.item()

    def stepped(self) -> None:
        """Do nothing."""

    def mean(self, losses: Sequence[float | None]) -> float:
        """Return the mean over the steps, added from left to right."""
        total = 0.0
        for value in losses:
            total += value or 0.0
        return total / len(losses)

    def event(self) -> None:
        """Return None: there is no private release."""


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _batches(examples: int, work: LocalWork, shuffle: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Return the indices of each step's examples."""
    size = min(work.batch_size, examples)
    orders = (shuffle.permutation(examples) for _ in itertools.count())
    batches = (order[start : start + size] for order in orders for start in range(0, examples, size))
    return itertools.islice(batches, work.steps or work.epochs * -(-examples // size))
