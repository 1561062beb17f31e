"""Book-keeping on batches of one fixed shape, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.kernels.book_keeping import BookKeepingSum
from fedsim.privacy.dp_sgd.kernels.param_gradients import Buffers, Weighted, clipped_sums, put
from fedsim.privacy.halves import Losses


class CompiledSum:
    """The fast kernel's clipped sums by `torch.compile`; the first batch waits for the compiler.

    The fast kernel's operations are traced once, on the largest batch, including the model's decisions in Python. A
    smaller batch is padded with its first example, with factor zero.

    Raises:
        ValueError: The model has an nn.LSTM, or this machine has no C++ compiler.
    """

    def __init__(self, model: nn.Module, losses: Losses, clip: float, max_batch: int) -> None:
        for path, module in model.named_modules():
            if isinstance(module, nn.LSTM):
                raise ValueError(
                    f"{path or 'the model'} (LSTM): kernel = 'compiled' would compile each of its time steps, which"
                    " takes minutes; use 'fast'"
                )
        _need_compiler()
        self._size = max_batch
        self._clip = clip
        self._fast = BookKeepingSum(model, losses, clip)
        self._compiled: Callable[..., list[Tensor]] | None = None
        self._summed: list[tuple[nn.Parameter, bool]] = []  # and whether the sum has a `right`

    @torch.no_grad()
    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        batch = len(inputs)
        padded = self._padded(inputs), self._padded(labels), torch.arange(self._size) < batch
        if self._compiled is None:
            self._compiled = self._compile(*padded)
        losses, finite, *rest = self._compiled(*padded)
        tensors = iter(rest)
        sums = {p: Weighted(next(tensors), next(tensors) if right else None) for p, right in self._summed}
        put(sums, buffers)
        return losses[:batch][finite[:batch]]

    def _padded(self, batch: Tensor) -> Tensor:
        rest = batch[:1].expand(self._size - len(batch), *batch.shape[1:])
        return torch.cat([batch, rest])

    def _compile(self, *padded: Tensor) -> Callable[..., list[Tensor]]:
        """Return a compiled pass: of inputs, labels and which examples count, to losses, which are finite, and sums.

        Raises:
            ValueError: The model's control flow depends on a tensor's values.
        """
        from torch.fx.experimental.proxy_tensor import make_fx

        self._fast.prepare(padded[0])

        def one_pass(inputs: Tensor, labels: Tensor, chosen: Tensor) -> list[Tensor]:
            losses, parts = self._fast.parts(inputs, labels)
            finite, sums = clipped_sums(losses, parts, self._clip, chosen)
            self._summed = [(parameter, total.right is not None) for parameter, total in sums.items()]
            tensors = [it for s in sums.values() for it in (s.left, s.right) if it is not None]
            return [losses, finite, *tensors]

        try:
            recorded = make_fx(one_pass)(*padded)
        except RuntimeError as error:
            if "value out of a tracing tensor" not in str(error):
                raise
            raise ValueError(
                "kernel = 'compiled': the model's control flow depends on a tensor's values; use 'fast'"
            ) from None
        # One thread compiles: a worker starts no processes of its own.
        options: dict[str, Any] = {"compile_threads": 1}
        return torch.compile(recorded, fullgraph=True, dynamic=False, options=options)


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
