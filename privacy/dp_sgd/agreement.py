"""Checks a kernel's clipped gradients against autograd, one example at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.examples import Examples
from fedsim.privacy.dp_sgd.passes import Batch, Losses, Pass, Passes, norm

ClippedSums = Callable[[nn.Module, Losses, float, Tensor, Tensor], Sequence[Tensor]]
"""`(model, losses, clip, inputs, labels)` to the clipped sum, one tensor a trainable parameter, in their order."""

BATCH = 3  # size of the batches that are compared
CLOSE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""A kernel's largest relative error of the sum. Rounding is far below it; a kernel's safety margin on a norm is not,
if an example's positions nearly cancel. A missing layer or a wrong example is far above it."""


def try_kernel(sums: ClippedSums, passes: Passes, examples: Examples) -> None:
    """Let a kernel raise its own errors on a model, which are clearer than autograd's; as `check_kernel`."""
    _by_kernel(sums, passes, examples.take([0]), 1.0)


def check_kernel(sums: ClippedSums, passes: Passes, examples: Examples) -> None:
    """Refuse a model for which a kernel's clipped gradients differ from autograd's.

    They differ if a weight is used outside its layer, if a layer's first dimension is not the example, or if a user's
    own grad sampler is wrong. Sums over several examples are compared, with all clipped and with none clipped,
    without dropout.

    Args:
        sums: The kernel's, new to that model.
        passes: Over a copy of the model.
        examples: Examples for it, at least one.

    Raises:
        ValueError: The sums differ, or the kernel refuses the model.
    """
    batch = examples.take([i % examples.ordinary for i in range(BATCH)])
    each = _one_by_one(passes, batch)
    norms = [one.norm() for one in each]
    for factor in (2 / max(min(norms), 1e-6), 0.5 / max(*norms, 1e-6)):
        _compare(_by_kernel(sums, passes, batch, factor), _clipped(each, factor, 1.0))


def check_as_it_is(
    sums: Callable[[Tensor, Tensor], Sequence[Tensor]],
    passes: Passes,
    examples: Examples,
    clip: float,
    most: int | None,
) -> None:
    """Refuse a model for which the clipped gradients of a kernel in use differ from autograd's.

    A model that draws random numbers is not checked: compiled code draws others.

    Args:
        sums: The kernel's.
        passes: Over a copy of the kernel's model.
        examples: Examples for it, at least one.
        clip: The kernel's clip norm.
        most: The kernel's largest batch; None: any.

    Raises:
        ValueError: The sums differ.
    """
    batch = examples.take([i % examples.ordinary for i in range(min(BATCH, most or BATCH))])
    if not passes.one(batch, dropout=True).drew:
        _compare(sums(*batch), _clipped(_one_by_one(passes, batch), 1.0, clip))


def _by_kernel(sums: ClippedSums, passes: Passes, batch: Batch, factor: float) -> Sequence[Tensor]:
    """Return the sum, clipped to 1, of losses times a factor."""
    losses = passes.fresh_losses()
    inputs, labels = passes.of(batch)
    with passes.quiet():
        return sums(
            copy.deepcopy(passes.model), lambda o, y: losses(o, y) * factor, 1.0, inputs.clone(), labels
        )


def _one_by_one(passes: Passes, batch: Batch) -> list[Pass]:
    inputs, labels = batch
    return [passes.one((inputs[i : i + 1], labels[i : i + 1])) for i in range(len(inputs))]


def _clipped(each: Sequence[Pass], factor: float, clip: float) -> list[Tensor]:
    """Return the sum of the gradients, each times a factor and clipped."""
    total = [torch.zeros_like(g) for g in each[0].gradient]
    for one in each:
        share = factor * min(1.0, clip / (factor * one.norm() + 1e-6))
        for part, gradient in zip(total, one.gradient, strict=True):
            part.add_(gradient, alpha=share)
    return total


def _compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    away = norm(a - b for a, b in zip(found, expected, strict=True))
    if not away <= CLOSE.get(expected[0].dtype, CLOSE[torch.float32]) * norm(expected):
        raise ValueError(
            "the kernel's sum of clipped gradients is not that of autograd, one example at a time: a layer's weight is"
            " used outside of the layer, a layer's first dimension is not the batch, or a grad sampler is wrong"
        )
