"""The gradient of a DP-SGD step, by any kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.dp_sgd.independence import Independence
from fedsim.privacy.dp_sgd.rounding import KEPT, SINGLE, check_precision, most_examples, most_noise, step_grid
from fedsim.privacy.dp_sgd.validator import check_model
from fedsim.privacy.halves import Losses

Kernel = Literal["auto", "opacus", "fast", "compiled"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
_ORDER: dict[Kernel, tuple[str, ...]] = {  # what takes a model that a kernel can't
    "auto": ("fast", "vmap", "loop"),
    "fast": ("fast", "vmap", "loop"),
    "opacus": ("opacus", "fast", "vmap", "loop"),
    "compiled": ("compiled",),
}


class ClippedSum(Protocol):
    """A kernel: puts one batch's clipped sum into a buffer for each trainable parameter."""

    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """Fill each buffer, contiguous, with `sum_i clip(g_i)`; return the losses that are finite.

        There is at least one example: inputs and labels are `(B, ...)`. Buffers are of the parameters' dtype, or float64.
        """


class PrivateGradient:
    """Clipped, summed and noised per-example gradients of one model.

    Made once for every batch of every client: the model's weights may be replaced in place in between. Only gradients
    stay on the model (and, with the kernel `opacus`, Opacus' marks on parameters).

    With `g_i` the gradient of example i's loss over all trainable parameters together, flat, C the clip norm and
    `C' = (1 - 2^-9) C`, a step's gradient is `(grid(sum_i g_i * min(1, C' / (||g_i||_2 + 1e-6))) + grid(z C N(0, I)))
    / denominator` (Abadi et al. 2016, algorithm 1; the 1e-6 is Opacus', and errs on the safe side). Unit of privacy:
    one example. Removing one moves the computed and rounded sum by at most C (`rounding.py`), and the noise is added
    exactly (`fedsim.privacy.arithmetic`), so one step is the Gaussian mechanism with noise multiplier z. This holds
    for the sum: the denominator must be public, not the batch's size. `Arithmetic.FLOAT32` adds float32 noise to a
    sum clipped to C; its low bits can distinguish sums, so there is no guarantee.

    | an example with              | contributes                                    |
    | ---------------------------- | ---------------------------------------------- |
    | NaN or infinity in its loss or gradient, or a norm of more than 2^100 C | zero, exactly |
    | gradient zero                | zero                                           |
    | none at all: an empty batch  | nothing; the noise is added all the same       |

    Sensitive: the returned losses, and how long a step takes.

    Args:
        model: Passes `check_model`.
        losses: `(outputs, labels) -> (B,)`, each loss from its own example's outputs only.
        clip: The clip norm C, above 0.
        kernel: How it is computed; it changes speed and the last bits.
            `opacus`: Opacus' hooks, and its recurrent layers in the place of PyTorch's.
            `fast`, and `auto`: one pass forward, one back to the layers' outputs, and from these the norms and
            the clipped sum ("book-keeping": Bu et al. 2023, arXiv 2210.00038), nn.LSTM included. Other layers, and
            those with a parameter in common or more than one call, are run example by example, by
            `torch.func.vmap` or in a loop.
            `compiled`: the same by `torch.compile`, on batches that are padded to one size: for long runs. The
            model may decide by nothing that is in a tensor, and has no nn.LSTM.
            What `opacus` can't take `fast` does, and what that can't, as a weight that is used outside of its layer,
            the model as a whole by `vmap`, or in a loop: the first whose gradients are autograd's.
        max_batch: The largest batch, at least 1; `compiled` needs it, and pads to it.
        arithmetic: How the noise is added.

    Raises:
        ValueError: The model, or an argument, is invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        *,
        clip: float,
        kernel: Kernel = "auto",
        max_batch: int | None = None,
        arithmetic: Arithmetic = Arithmetic.GRID,
    ) -> None:
        if not (math.isfinite(clip) and clip > 0):
            raise ValueError(f"clip = {clip}: must be above 0, and finite")
        if kernel not in KERNELS:
            raise ValueError(f"kernel = {kernel!r}: must be one of {', '.join(KERNELS)}")
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch = {max_batch}: must be at least 1")
        check_model(model)
        self.clip = clip
        self._buffers = _buffers_of(model)
        dtype = check_precision({p.dtype for p in self._buffers})
        self._max_batch = min(max_batch or most_examples(dtype), most_examples(dtype))
        sizes = [p.numel() for p in self._buffers]
        exact, dimension = arithmetic is Arithmetic.GRID, sum(sizes)
        self._most_noise = most_noise(dimension) if exact else math.inf
        self._grid = step_grid(clip, dimension) if exact else None
        self._noise = torch.empty(max(sizes), dtype=torch.float64 if exact else dtype)
        kept = KEPT * clip if exact else clip
        self._make = functools.partial(_kernel, model=model, losses=losses, clip=kept, max_batch=max_batch)
        self._kernels = {"compiled": self._make("compiled")} if kernel == "compiled" else {}
        self._independence = Independence(
            model,
            losses,
            sums={name: functools.partial(_sum_afresh, name) for name in _ORDER[kernel]},
            itself=self._sum_itself if kernel == "compiled" else None,
            clip=kept,
            most=max_batch,
        )

    def __call__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        noise_multiplier: float,
        denominator: float,
        noise: Callable[[Tensor], None],
    ) -> float:
        """Set the `grad` of every trainable parameter, and return the mean loss of the batch.

        The gradients are this object's memory: the next call overwrites them.

        Args:
            inputs: The batch, `(B, ...)`; B may be 0.
            labels: Theirs, `(B, ...)`.
            noise_multiplier: The z above, at least 0: the noise's standard deviation on the sum, in units of C.
            denominator: Divisor of the noised sum, above 0 and public: the expected batch size.
            noise: Fills a contiguous tensor with standard normals of float64 density, in place. Called once for each
                trainable parameter, in the model's order, whatever the batch; not at all if `noise_multiplier` is 0.

        Returns:
            The mean over the examples with a finite loss and gradient; 0 if there is none.

        Raises:
            ValueError: An argument is out of its range, a batch has more than 16,384 examples (no bound on rounding
                errors), or, in the first non-empty batch, the model mixes examples (`check_independent`). Nothing is
                then released.
        """
        if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
            raise ValueError(f"noise_multiplier = {noise_multiplier}: must be at least 0, and finite")
        if noise_multiplier > self._most_noise:
            raise ValueError(
                f"noise_multiplier = {noise_multiplier}: must be at most {self._most_noise:.4g} for so many parameters"
            )
        if not (math.isfinite(denominator) and denominator > 0):
            raise ValueError(f"denominator = {denominator}: must be above 0, and finite")
        if len(inputs) > self._max_batch:
            raise ValueError(f"a batch of {len(inputs)} examples; max_batch = {self._max_batch}")
        if len(inputs):
            self._independence.check(inputs, labels)
        sums, losses = self._sums(inputs, labels)
        for parameter, buffer in self._buffers.items():
            noised = self._noised(sums[parameter], noise_multiplier * self.clip, noise)
            torch.div(noised, denominator, out=buffer)
            parameter.grad = buffer
        return losses.mean().item() if len(losses) else 0.0

    def _sums(self, inputs: Tensor, labels: Tensor) -> tuple[Mapping[nn.Parameter, Tensor], Tensor]:
        """Return the clipped sums, in the gradients' memory (or float64 for many examples), and the finite losses."""
        sums = self._buffers
        if len(inputs) > SINGLE:
            sums = {p: buffer.double() for p, buffer in sums.items()}
        if len(inputs):
            return sums, self._kernel()(inputs, labels, sums)
        for total in sums.values():
            total.zero_()
        return sums, torch.empty(0)

    def _noised(self, total: Tensor, deviation: float, noise: Callable[[Tensor], None]) -> Tensor:
        """Return the noised sum of one parameter."""
        if not deviation:
            return total
        noised = self._noise[: total.numel()].view(total.shape)
        noise(noised)
        noised.mul_(deviation)
        if self._grid is None:
            return noised.add_(total)
        self._grid.add(total.numpy(), noised.numpy())
        return noised

    def _kernel(self) -> ClippedSum:
        name = self._independence.chosen
        if name not in self._kernels:
            self._kernels[name] = self._make(name)
        return self._kernels[name]

    def _sum_itself(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """Return a clipped sum, in the gradients' memory."""
        self._kernel()(inputs, labels, self._buffers)
        return list(self._buffers.values())


def _sum_afresh(
    kernel: str, model: nn.Module, losses: Losses, clip: float, inputs: Tensor, labels: Tensor
) -> list[Tensor]:
    """Return the clipped sum of one batch, by a new kernel (`fast` in place of `compiled`)."""
    buffers = _buffers_of(model)
    _kernel("fast" if kernel == "compiled" else kernel, model, losses, clip, None)(inputs, labels, buffers)
    return list(buffers.values())


def _buffers_of(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Return a tensor like each trainable parameter, in default memory order, which a generator fills fast."""
    return {
        p: torch.zeros_like(p, memory_format=torch.contiguous_format)
        for p in model.parameters()
        if p.requires_grad
    }


def _kernel(kernel: str, model: nn.Module, losses: Losses, clip: float, max_batch: int | None) -> ClippedSum:
    """Return the kernel; its module, with heavy imports, is loaded here."""
    if kernel == "opacus":
        from fedsim.privacy.dp_sgd.kernels.opacus import OpacusSum

        return OpacusSum(model, losses, clip)
    if kernel == "compiled":
        from fedsim.privacy.dp_sgd.kernels.compiled import CompiledSum

        if max_batch is None:
            raise ValueError("kernel = 'compiled' needs max_batch: it compiles one shape, to which it pads")
        return CompiledSum(model, losses, clip, max_batch)
    if kernel in ("vmap", "loop"):
        from fedsim.privacy.dp_sgd.kernels.examplewise import ExamplewiseSum

        return ExamplewiseSum(model, losses, clip, together=kernel == "vmap")
    from fedsim.privacy.dp_sgd.kernels.book_keeping import BookKeepingSum

    return BookKeepingSum(model, losses, clip)
