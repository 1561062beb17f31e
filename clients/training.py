"""Local training: what a client does with its examples in a round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.data import Examples
from fedsim.models import loss
from fedsim.optimizers import Optimizer
from fedsim.sections import ClientSection


@dataclass(frozen=True)
class Trained:
    """What local training reports: the mean loss over its steps (nats), and how many steps there were."""

    loss: float
    steps: int


def train(
    model: nn.Module,
    optimizer: Optimizer,
    examples: Examples,
    settings: ClientSection,
    shuffle: np.random.Generator,
    proximal_mu: float,
) -> Trained:
    """Run an optimizer on a client's examples, in place.

    Each step descends `mean cross-entropy + mu/2 ||w - w_t||^2`, with w_t the weights on entry (FedProx, Li et
    al. 2020). Batches are a fresh permutation of the examples each pass.

    Args:
        model: Holds the round's global weights, and the trained ones afterwards.
        optimizer: Of the model's trainable parameters, made for this training.
        examples: At least one.
        settings: Passes or steps, and batch size.
        shuffle: Orders the examples.
        proximal_mu: The mu above, at least 0.
    """
    if not model.training:
        model.train()
    received = received_weights(model, proximal_mu)
    inputs, labels = examples.tensors()
    total, steps = 0.0, 0
    for batch in _batches(len(examples), settings, shuffle):
        optimizer.zero_grad()
        chosen = torch.from_numpy(batch)
        value = loss(model(inputs.index_select(0, chosen)), labels.index_select(0, chosen))
        value.backward()  # type: ignore[no-untyped-call]
        pull_to(received, proximal_mu)
        optimizer.step()
        total += value.item()
        steps += 1
    return Trained(loss=total / steps, steps=steps)


def received_weights(model: nn.Module, mu: float) -> list[tuple[Tensor, Tensor]]:
    """Return the trainable parameters, each with a copy of the weights to which a proximal term of `mu` pulls it.

    None where `mu` is 0.
    """
    return [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad] if mu > 0 else []


def pull_to(received: list[tuple[Tensor, Tensor]], mu: float) -> None:
    """Add the gradient of the proximal term, `mu (w - w_t)`."""
    for parameter, anchor in received:
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
