"""One example by itself, by plain autograd: what a kernel's view of a model is held against once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

TOLERANCE = 0.01  # of the norm; rounding stays far below, a layer or an example that is left out far above


def check_alone(
    model: nn.Module, losses: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, norm: float
) -> None:
    """Refuse a model whose gradient for an example is another one without the batch, or without the kernel.

    So it is where examples meet on their way to the loss (a mean over the batch in a `forward`), where a
    weight is used outside of its layer, and where a layer's first dimension is not the example. A model that
    draws random numbers can't be compared, and is let pass. PyTorch's default generator is left as it was.

    Args:
        model: As it is trained.
        losses: `(outputs, labels) -> (B,)`.
        x: One example, `(1, ...)`.
        y: Its label, `(1, ...)`.
        norm: The norm of its gradient that the kernel found in a batch.

    Raises:
        ValueError: The norms differ by more than one percent.
    """
    state = torch.get_rng_state()
    try:
        first, second = _norm(model, losses, x, y), _norm(model, losses, x, y)
    finally:
        torch.set_rng_state(state)
    if first == second and not abs(first - norm) <= TOLERANCE * max(first, 1e-3):
        raise ValueError(
            f"an example's gradient has norm {norm:.6g} in a batch, and {first:.6g} when autograd finds it alone:"
            " examples meet before the loss, or a layer's weight is used outside of the layer"
        )


def _norm(model: nn.Module, losses: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    with torch.enable_grad():
        loss = losses(model(x), y).sum()
        gradients = torch.autograd.grad(
            loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True
        )
    return float(torch.stack([g.norm() for g in gradients if g is not None]).norm())
