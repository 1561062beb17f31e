"""The parts of each layer's parameters, from the layer's input and the loss's gradient at its output.

A convolution's images are unfolded a few at a time, within the processor's cache. Legend: B examples, C input channels,
O output channels, R x S kernel, H x W output positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.kernels.param_gradients import (
    BufferPool,
    Part,
    Product,
    Rows,
    Weighted,
    ghost_is_cheaper,
    lookup_part,
    only,
    squared,
)

Parts = Iterator[tuple[str, Part]]  # by a parameter's name in its module
Names = Collection[str]
MOST_CHUNKS = 16  # of a batch, to limit compilation
CHUNK = 2**17  # floats of unfolded images at a time: 0.5 MB, half of a common second-level cache


def layer_parts(module: nn.Module, trained: Names, x: Tensor, gradient: Tensor, pool: BufferPool) -> Parts:
    """Yield the name and the part of each trainable parameter of one module.

    Args:
        module: Of a kind that `structure.py` lets pass, except nn.LSTM.
        trained: Names of its own trainable parameters.
        x: Its input `(B, ...)`.
        gradient: Gradient of the summed losses at its output `(B, ...)`.
        pool: Where per-example gradients go.
    """
    return _KINDS.get(type(module), _by_opacus)(module, trained, x, gradient, pool)


def _linear(layer: nn.Linear, trained: Names, x: Tensor, gradient: Tensor, pool: BufferPool) -> Parts:
    inputs, outputs = _positions(x), _positions(gradient)
    if "weight" in trained:
        yield "weight", Product(inputs, outputs, pool)
    if "bias" in trained:
        yield "bias", Rows(outputs.sum(1))


def _positions(x: Tensor) -> Tensor:
    """Return `(B, ..., C)` as `(B, T, C)`."""
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


def _conv2d(layer: nn.Conv2d, trained: Names, x: Tensor, gradient: Tensor, pool: BufferPool) -> Parts:
    if layer.groups > 1:
        yield from _by_opacus(layer, trained, x, gradient, pool)
        return
    if "weight" in trained:
        yield "weight", _convolution(layer, x, gradient, pool)
    if "bias" in trained:
        yield "bias", Rows(gradient.sum((2, 3)))


def _convolution(layer: nn.Conv2d, x: Tensor, gradient: Tensor, pool: BufferPool) -> Part:
    """Return the part of the weight of a convolution of one group, padded by zeros."""
    x = F.pad(x, _margins(layer))
    positions, inputs, outputs = gradient[0, 0].numel(), layer.weight[0].numel(), len(layer.weight)
    if ghost_is_cheaper(positions, inputs, outputs):
        patches = F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
        return Product(patches.mT, gradient.flatten(2).mT, pool)
    return _Convolved(layer, x, gradient, pool)


class _Convolved:
    """The gradients of a convolution's weight, example by example: `g_i = patches_i^T outputs_i`.

    Patches are laid out so that copies are long runs: S * C floats of a row of pixels, or W floats of a row of one
    channel if that is longer, as with one or three channels.
    """

    def __init__(self, layer: nn.Conv2d, x: Tensor, gradient: Tensor, pool: BufferPool) -> None:
        batch, outputs, height, width = gradient.shape
        _, channels, rows, columns = layer.weight.shape
        self._outputs = gradient.permute(0, 2, 3, 1).reshape(batch, height * width, outputs)
        (down, right), (step_down, step_right) = layer.stride, layer.dilation
        self._by_channel = width > columns * channels
        x = x.contiguous(memory_format=torch.contiguous_format if self._by_channel else torch.channels_last)
        b, c, h, w = x.stride()
        kernel = ((channels, c), (rows, h * step_down), (columns, w * step_right))
        if not self._by_channel:
            kernel = (kernel[1], kernel[2], kernel[0])
        image = ((height, h * down), (width, w * right))
        order = (*kernel, *image) if self._by_channel else (*image, *kernel)
        sizes, strides = zip(*order, strict=True)
        self._patches = x.as_strided((batch, *sizes), (b, *strides), x.storage_offset())
        self._kernel = tuple(size for size, _ in kernel)
        self._pool = pool
        self._rows: list[tuple[slice, Tensor]] = []

    def squares(self) -> Tensor:
        """Return the squared norms of the per-example gradients, `(B,)`."""
        batch, positions, outputs = self._outputs.shape
        inputs = self._patches[0].numel() // positions
        count = min(batch, max(CHUNK // (inputs * positions), math.ceil(batch / MOST_CHUNKS)))
        room = self._pool.empty(count, *self._patches.shape[1:], like=self._outputs)
        unfolded = (
            room.view(count, inputs, positions)
            if self._by_channel
            else room.view(count, positions, inputs).mT
        )
        for start in range(0, batch, count):
            some = slice(start, min(start + count, batch))
            size = some.stop - start
            room[:size].copy_(self._patches[some])
            rows = self._pool.empty(size, inputs, outputs, like=self._outputs)
            self._rows.append((some, torch.bmm(unfolded[:size], self._outputs[some], out=rows)))
        return torch.cat([squared(rows) for _, rows in self._rows])

    def keep(self, finite: Tensor) -> None:
        """Zero the gradients of non-finite examples."""
        self._rows = [(some, only(finite[some], rows)) for some, rows in self._rows]

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`."""
        total = factors.new_zeros(self._rows[0][1][0].numel())
        for some, rows in self._rows:
            total.addmv_(rows.flatten(1).t().to(factors.dtype), factors[some])
        total = total.view(*self._kernel, -1)  # its last axis: O
        order = (3, 0, 1, 2) if self._by_channel else (3, 2, 0, 1)
        return Weighted(total.permute(order))


def _margins(layer: nn.Conv2d) -> list[int]:
    """Return the numbers of padding zeros left, right, above and below an image."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    above, left = (int(p) for p in layer.padding)
    return [left, left, above, above]


def _embedding(layer: nn.Embedding, trained: Names, x: Tensor, gradient: Tensor, pool: BufferPool) -> Parts:
    tokens, outputs = x.reshape(len(x), -1), gradient.reshape(len(x), -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        outputs = outputs.masked_fill((tokens == layer.padding_idx).unsqueeze(2), 0.0)
    yield "weight", lookup_part(layer.num_embeddings, tokens, outputs)


def _group_norm(layer: nn.GroupNorm, trained: Names, x: Tensor, gradient: Tensor, pool: BufferPool) -> Parts:
    if "weight" in trained:
        normal = F.group_norm(x, layer.num_groups, eps=layer.eps)
        yield "weight", Rows(_of_channels(normal * gradient))
    if "bias" in trained:
        yield "bias", Rows(_of_channels(gradient))


def _of_channels(values: Tensor) -> Tensor:
    """Return the sums `(B, C)` of `(B, C, ...)`."""
    return values.flatten(2).sum(2) if values.dim() > 2 else values


def _layer_norm(layer: nn.LayerNorm, trained: Names, x: Tensor, gradient: Tensor, pool: BufferPool) -> Parts:
    size = len(layer.normalized_shape)

    def summed(values: Tensor) -> Tensor:
        return values.reshape(len(x), -1, *values.shape[-size:]).sum(1)

    if "weight" in trained:
        yield "weight", Rows(summed(F.layer_norm(x, layer.normalized_shape, eps=layer.eps) * gradient))
    if "bias" in trained:
        yield "bias", Rows(summed(gradient))


def _by_opacus(layer: nn.Module, trained: Names, x: Tensor, gradient: Tensor, pool: BufferPool) -> Parts:
    """Yield per-example gradients by Opacus' grad sampler for this kind of layer, or a user's."""
    from opacus.grad_sample import GradSampleModule

    # Opacus' unfolding of images is wrong for channels_last.
    found = GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [x.contiguous()], gradient.contiguous())
    for name in trained:
        yield name, Rows(found[layer.get_parameter(name)])


_KINDS: dict[type[nn.Module], Callable[..., Parts]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
