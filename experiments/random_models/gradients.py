"""The clipped sum of DP-SGD's kernel beside autograd's, of one random model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.experiments.random_models.models import ROWS, WIDTH, model_of
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.rounding import KEPT
from fedsim.privacy.halves import Losses
from fedsim.streams import numpy_stream

BATCH, CLASSES, CLIP = 6, 10, 0.5


def distance(number: int) -> float | str:
    """Return the largest difference between two clipped sums in any coordinate, or why DP-SGD refuses the model.

    The sums are of 6 examples of a normal distribution, each clipped to an L2 norm of 0.5: by the kernel `auto`, and by
    autograd of one example at a time. There is no dropout.
    """
    draw = numpy_stream(0, "random-gradient", round_=number)
    torch.default_generator.manual_seed(int(draw.integers(2**62)))
    model = _without_dropout(model_of(number, CLASSES))
    inputs = torch.from_numpy(draw.standard_normal((BATCH, 1, ROWS, WIDTH)).astype(np.float32))
    labels = torch.from_numpy(draw.integers(CLASSES, size=BATCH))
    expected = clipped_sum_by_autograd(model, _losses, inputs, labels, CLIP)
    try:
        private = PrivateGradient(model, _losses, clip=CLIP / KEPT)
        private(inputs, labels, noise_multiplier=0.0, denominator=1.0, noise=lambda _: None)
    except ValueError as error:
        return str(error)
    found = [gradient for p in model.parameters() if (gradient := p.grad) is not None]
    return max((f - e).abs().max().item() for f, e in zip(found, expected, strict=True))


def _losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def clipped_sum_by_autograd(
    model: nn.Module, losses: Losses, inputs: Tensor, labels: Tensor, clip: float
) -> list[Tensor]:
    """Return the sum of clipped gradients for each trained parameter: one example at a time, each from the same buffers."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(len(inputs)):
        loss = losses(model(inputs[i : i + 1]), labels[i : i + 1]).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        norm = torch.cat([g.double().flatten() for g in gradients]).norm().item()
        for part, gradient in zip(total, gradients, strict=True):
            part += gradient * min(1.0, clip / (norm + 1e-6))
        for buffer, values in buffers:
            buffer.copy_(values)
    return total


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model
