"""The loss that is trained, and how well a model does on a set of examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.data.federated import Examples
from fedsim.threads import single_threaded

BATCH = 500  # examples at a time; part of the result's last bits, so not a setting


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy over `predictions` labels: one an example, or one a character."""

    loss: float
    accuracy: float
    predictions: int


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats, a scalar) of logits `(..., classes)` at labels `(...)`."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each example's mean cross-entropy (nats) over its labels, `(examples,)`.

    Args:
        logits: `(examples, classes)`, or `(examples, length, classes)`.
        labels: `(examples,)`, or `(examples, length)`.
    """
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    return each if each.dim() == 1 else each.mean(1)


def score(model: nn.Module, examples: Examples, threads: int = 1) -> Score:
    """Evaluate a model on all examples.

    The batches are fixed, each is computed by one thread, and their sums are added in order: the number of
    threads leaves every bit of the result as it is.

    Args:
        model: Put into evaluation mode.
        examples: At least one.
        threads: Batches evaluated at the same time.
    """
    if len(examples) == 0:
        raise ValueError("no examples to evaluate on")
    model.eval()

    def one(batch: Examples) -> tuple[float, int, int]:
        with single_threaded(), torch.inference_mode():
            inputs, labels = batch.tensors()
            logits = model(inputs)
            total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
            correct = (logits.argmax(-1) == labels).sum()
        return float(total), int(correct), labels.numel()

    if threads > 1 and len(examples) > BATCH:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(one, _batches(examples)))
    else:
        parts = [one(batch) for batch in _batches(examples)]
    predictions = sum(count for _, _, count in parts)
    return Score(
        loss=math.fsum(total for total, _, _ in parts) / predictions,
        accuracy=sum(correct for _, correct, _ in parts) / predictions,
        predictions=predictions,
    )


def _batches(examples: Examples) -> Iterator[Examples]:
    for start in range(0, len(examples), BATCH):
        y = examples.y
        yield Examples(
            examples.x[start : start + BATCH], None if y is None else y[start : start + BATCH], examples.kind
        )
