"""Local training."""

from __future__ import annotations

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
        model: Holds the round's global weights, and the trained ones afterwards.
        optimizer: Of the model's trainable parameters, made for this training.
        steps: Each sets the gradients of the loss.
        proximal_mu: The mu above, at least 0.
        after_step: Called after each step of the optimizer.

    Raises:
        ValueError: The steps have been taken before.
    """
    if not model.training:
        model.train()
    received = received_weights(model, proximal_mu)
    losses: list[float | None] = []
    for value in steps:
        pull_to(received, proximal_mu)
        optimizer.step()
        after_step()
        steps.stepped()
        losses.append(value)
    return Trained(loss=steps.mean(losses), steps=len(losses))


class PlainKernel:
    """Mean gradients over batches of a fresh permutation of the examples in each pass.

    Args:
        model: Trained in place.
        loss: Maps `(outputs, targets)` to a batch's mean loss.
        work: Passes or steps, and batch size.
        shuffle: Returns the generator that orders a client's examples in a round.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        work: LocalWork,
        shuffle: Callable[[ClientRound], np.random.Generator],
    ) -> None:
        self._model = model
        self._loss = loss
        self._work = work
        self._shuffle = shuffle

    def steps(self, inputs: Tensor, targets: Tensor, at: ClientRound) -> PlainSteps:
        """Return the steps of a client's training: `Kernel`."""
        batches = _batches(at.records, self._work, self._shuffle(at))
        return PlainSteps(self._model, self._loss, inputs, targets, batches)


class PlainSteps:
    """Steps of a local training without privacy."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        batches: Iterator[NDArray[np.int64]],
    ) -> None:
        self._model = model
        self._loss = loss
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._inputs = inputs
        self._targets = targets
        self._batches = batches

    def __iter__(self) -> Iterator[float]:
        """Yield the mean loss of each step's batch: `Steps`."""
        for batch in self._batches:
            for parameter in self._parameters:
                parameter.grad = None
            chosen = torch.from_numpy(batch)
            inputs, targets = self._inputs.index_select(0, chosen), self._targets.index_select(0, chosen)
            value = self._loss(self._model(inputs), targets)
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


def received_weights(model: nn.Module, mu: float) -> list[tuple[Tensor, Tensor]]:
    """Return the trainable parameters, each with a copy of its weights for the proximal term; none if `mu` is 0."""
    return [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad] if mu > 0 else []


def pull_to(received: list[tuple[Tensor, Tensor]], mu: float) -> None:
    """Add the gradient of the proximal term, `mu (w - w_t)`."""
    for parameter, anchor in received:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=mu)


def _batches(examples: int, work: LocalWork, shuffle: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of each step's examples."""
    size = min(work.batch_size, examples)
    steps = work.steps or work.epochs * -(-examples // size)
    done = 0
    while True:
        order = shuffle.permutation(examples)
        for start in range(0, examples, size):
            if done == steps:
                return
            yield order[start : start + size]
            done += 1
