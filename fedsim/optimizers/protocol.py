"""What local training asks of an optimizer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Optimizer(Protocol):
    """Moves a model's parameters along their gradients, in place.

    It is made anew for each local training, as `make(parameters, lr, **options)`: `parameters` is the list of the
    model's trainable parameters, which hold the weights that the client received, and `lr` the round's learning
    rate. So every local training begins with fresh state (momentum, moments, step counts), which is the standard
    for clients that keep nothing between rounds, and what one client did is never seen by another.

    Under DP-SGD the gradients are clipped and noised before `step` sees them: whatever an optimizer does with
    gradients and parameters is post-processing, and costs no privacy. Every `torch.optim.Optimizer` whose `step`
    needs no closure is one.
    """

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> None:
        """Move the parameters that have a gradient; the others stay."""
