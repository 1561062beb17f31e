"""Book-keeping on batches of one fixed shape, compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.kernels.book_keeping import BookKeepingSum, Buffers, keep_finite
from fedsim.privacy.dp_sgd.kernels.param_gradients import Weighted


class CompiledSum:
    """The fast kernel's clipped sums by `torch.compile`; the first batch waits for the compiler.

    The fast kernel's operations are traced once, on the largest batch, including the model's decisions in Python. A
    smaller batch is padded with its first example, with factor zero.

    Raises:
        ValueError: The model has an nn.LSTM, or this machine has no C++ compiler.
    """

    def __init__(
        self, model: nn.Module, losses: Callable[[Tensor, Tensor], Tensor], clip: float, max_batch: int
    ) -> None:
        for path, module in model.named_modules():
            if isinstance(module, nn.LSTM):
                raise ValueError(
                    f"{path or 'the model'} (LSTM): kernel = 'compiled' would compile each of its time steps, which"
                    " takes minutes; use 'fast'"
                )
        _need_compiler()
        self._size = max_batch
        self._fast = BookKeepingSum(model, losses, clip)
        self._recorded: _Recorded | None = None

    @torch.no_grad()
    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        batch = len(inputs)
        padded = self._padded(inputs), self._padded(labels), torch.arange(self._size) < batch
        if self._recorded is None:
            self._recorded = _Recorded.of(self._fast, *padded)
        losses, finite, sums = self._recorded(*padded)
        finite = finite[:batch]
        self._fast.put(sums, buffers)
        return losses[:batch][finite]

    def _padded(self, batch: Tensor) -> Tensor:
        rest = batch[:1].expand(self._size - len(batch), *batch.shape[1:])
        return torch.cat([batch, rest])


@dataclass(frozen=True)
class _Recorded:
    """A pass of the fast kernel over a padded batch, compiled.

    Attributes:
        compiled: Takes inputs, labels and which examples count; returns losses, which examples are finite, and the
            tensors of all sums.
        names: The parameters with a sum, by module, and whether it has a `right`.
    """

    compiled: Callable[..., list[Tensor]]
    names: list[dict[str, bool]]

    @classmethod
    def of(cls, kernel: BookKeepingSum, inputs: Tensor, labels: Tensor, chosen: Tensor) -> _Recorded:
        """Record a pass, and compile it.

        Raises:
            ValueError: The model's control flow depends on a tensor's values.
        """
        from torch.fx.experimental.proxy_tensor import make_fx

        names: list[dict[str, bool]] = []

        def one_pass(inputs: Tensor, labels: Tensor, chosen: Tensor) -> list[Tensor]:
            losses, squares, parts = kernel.norms(inputs, labels)
            finite = losses.isfinite() & squares.isfinite()
            squares = keep_finite(finite, squares, parts)
            sums = kernel.sums(parts, squares, chosen)
            names[:] = [{name: own[name].right is not None for name in own} for own in sums]
            tensors = [it for own in sums for s in own.values() for it in (s.left, s.right) if it is not None]
            return [losses, finite, *tensors]

        try:
            recorded = make_fx(one_pass)(inputs, labels, chosen)
        except RuntimeError as error:
            if "value out of a tracing tensor" not in str(error):
                raise
            raise ValueError(
                "kernel = 'compiled': the model's control flow depends on a tensor's values; use 'fast'"
            ) from None
        # One thread compiles: a worker starts no processes of its own.
        options: dict[str, Any] = {"compile_threads": 1}
        return cls(torch.compile(recorded, fullgraph=True, dynamic=False, options=options), names)

    def __call__(
        self, inputs: Tensor, labels: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, list[dict[str, Weighted]]]:
        """Return losses and whether example and gradient are finite, `(max_batch,)`, and the sums."""
        losses, finite, *rest = self.compiled(inputs, labels, chosen)
        tensors = iter(rest)
        sums = [
            {name: Weighted(next(tensors), next(tensors) if right else None) for name, right in own.items()}
            for own in self.names
        ]
        return losses, finite, sums


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
