"""SGD: weight decay, momentum, step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class Sgd:
    """SGD with momentum and an L2 penalty (`torch.optim.SGD` without dampening); implements `fedsim.optimizers.Optimizer`.

    The arithmetic is `torch.optim.sgd.sgd`. PyTorch's optimizer class would load the compiler, which takes longer
    than many runs, and costs more than a small model's step.

    Args:
        parameters: The trainable ones.
        lr: Learning rate.
        momentum: Share of the last step to keep, from 0 to below 1.
        weight_decay: L2 penalty, at least 0.
    """

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self._rate = lr
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._momenta: dict[Tensor, Tensor | None] = {}

    def zero_grad(self) -> None:
        """Drop the gradients."""
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
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=self._rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if self._momentum:
            self._momenta.update(zip(moved, momenta, strict=True))
