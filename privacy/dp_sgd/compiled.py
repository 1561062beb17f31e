"""Per-example gradients of a batch of one fixed shape, compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


class CompiledSum:
    """Clipped sums by `torch.compile` of `vmap(grad)`, clipping included; the first batch waits for the compiler.

    A batch is padded with zeros to the one shape that is compiled; the padding is masked as examples are that
    are not finite, and contributes exactly zero.

    Raises:
        ValueError: The model has an nn.LSTM, or this machine has no C++ compiler.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Callable[[Tensor, Tensor], Tensor],
        clip: float,
        buffers: dict[nn.Parameter, Tensor],
        max_batch: int,
    ) -> None:
        for path, module in model.named_modules():
            if isinstance(module, nn.LSTM):
                raise ValueError(
                    f"{path or 'the model'} (LSTM): PyTorch can't vectorise nn.LSTM over examples (no batching"
                    " rule), so kernel = 'compiled' can't train it; use 'fast'"
                )
        _need_compiler()
        self._model = model
        self._losses = losses
        self._clip = clip
        self._buffers = buffers
        self._size = max_batch
        self._weights = {name: p for name, p in model.named_parameters() if p in buffers}
        # One thread compiles: a worker starts no processes of its own.
        self._compiled = torch.compile(
            self._summed, fullgraph=True, dynamic=False, options={"compile_threads": 1}
        )

    def __call__(self, inputs: Tensor, labels: Tensor, *, scale: float, keep: float) -> Tensor:
        """Add a batch's clipped sum to the buffers: see `gradient.ClippedSum`."""
        mask = torch.zeros(self._size, dtype=torch.bool)
        mask[: len(inputs)] = True
        weights = {name: p.detach() for name, p in self._weights.items()}
        sums, losses, finite = self._compiled(weights, self._padded(inputs), self._padded(labels), mask)
        for name, weight in self._weights.items():
            self._buffers[weight].mul_(keep).add_(sums[name], alpha=scale)
        return losses[finite].clone()

    def _padded(self, batch: Tensor) -> Tensor:
        padded = batch.new_zeros(self._size, *batch.shape[1:])
        padded[: len(batch)] = batch
        return padded

    def _summed(
        self, weights: dict[str, Tensor], inputs: Tensor, labels: Tensor, mask: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the clipped sums by name, the losses `(max_batch,)`, and which of them count."""

        def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            outputs = functional_call(self._model, weights, (x.unsqueeze(0),))
            loss = self._losses(outputs, y.unsqueeze(0))[0]
            return loss, loss

        gradients, losses = vmap(grad(loss_of, has_aux=True), (None, 0, 0), randomness="different")(
            weights, inputs, labels
        )
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
        finite = mask & losses.isfinite() & squares.isfinite()
        factors = (self._clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        factors = torch.where(finite, factors, 0.0)
        sums = {}
        for name, gradient in gradients.items():
            rows = torch.where(finite.unsqueeze(1), gradient.flatten(1), 0.0)
            sums[name] = (factors @ rows).view(gradient.shape[1:])
        return sums, losses, finite


def _need_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError(
            "kernel = 'compiled' needs a C++ compiler (g++ or clang++, or the one that CXX names), and there is"
            " none on this machine; use 'fast'"
        ) from error
