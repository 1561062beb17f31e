"""Adam: steps scaled by running moments of the gradient (Kingma and Ba 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam


class _Moments(NamedTuple):
    """A parameter's state, with the layout and dtypes of `torch.optim.Adam`."""

    first: Tensor  # running mean of the gradient: shape and dtype of the parameter
    second: Tensor  # of its square
    steps: Tensor  # number of steps, a scalar of the default dtype


class Adam:
    """Adam with bias correction and an L2 penalty (`torch.optim.Adam`); implements `fedsim.optimizers.Optimizer`.

    The arithmetic is `torch.optim.adam.adam`: for why PyTorch's class is not used, see `fedsim.optimizers.sgd.Sgd`.

    Args:
        parameters: The trainable ones.
        lr: Learning rate.
        beta_1: Decay of the first moment, from 0 to below 1.
        beta_2: Decay of the second moment, from 0 to below 1.
        eps: Added to the root of the second moment, above 0.
        weight_decay: At least 0. Here an L2 penalty: its gradient is in the moments.
    """

    _update: Callable[..., None] = staticmethod(adam)

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self._rate = lr
        self._betas = beta_1, beta_2
        self._eps = eps
        self._weight_decay = weight_decay
        self._moments: dict[Tensor, _Moments] = {}

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient; one that has its first gradient begins at step 1."""
        moved = [p for p in self.parameters if p.grad is not None]
        moments = [self._moments_of(p) for p in moved]
        self._update(
            moved,
            [p.grad for p in moved if p.grad is not None],
            [of.first for of in moments],
            [of.second for of in moments],
            [],
            [of.steps for of in moments],
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=self._rate,
            weight_decay=self._weight_decay,
            eps=self._eps,
            maximize=False,
        )

    def _moments_of(self, parameter: Tensor) -> _Moments:
        if parameter not in self._moments:
            first, second = (torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in "12")
            self._moments[parameter] = _Moments(first, second, torch.tensor(0.0))
        return self._moments[parameter]
