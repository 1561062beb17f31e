"""The optimizer's interface in local training."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Optimizer(Protocol):
    """Moves a model's parameters along their gradients, in place.

    Each local training makes a new one, as `make(parameters, lr, **options)`: `parameters` is the list of the model's
    trainable parameters, with the received weights, and `lr` the round's learning rate. So every local training
    begins with fresh state (momentum, moments, step counts), as is standard for stateless clients, and no state
    passes between clients.

    Under DP-SGD the gradients are clipped and noised before `step`: what an optimizer does with them is
    post-processing, and costs no privacy. Every `torch.optim.Optimizer` with a `step` that needs no closure
    qualifies.
    """

    def zero_grad(self) -> None:
        """Drop the gradients."""

    def step(self) -> None:
        """Move the parameters that have a gradient; the others stay."""
