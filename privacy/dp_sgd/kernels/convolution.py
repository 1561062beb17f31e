"""A 2-D convolution's per-example gradients: images are unfolded a few at a time, within the processor's cache.

Legend: B examples, C input channels, O output channels, R x S kernel, H x W output positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.kernels.buffer_pool import BufferPool
from fedsim.privacy.dp_sgd.kernels.param_gradients import (
    Part,
    Product,
    Weighted,
    ghost_is_cheaper,
    only,
    squared,
)

MOST_CHUNKS = 16  # of a batch, to limit compilation
CHUNK = 2**17  # floats of unfolded images at a time: 0.5 MB, half of a common second-level cache


def convolution_part(layer: nn.Conv2d, x: Tensor, gradient: Tensor, pool: BufferPool) -> Part:
    """Return the part of a convolution's weight.

    Args:
        layer: Of one group, padded by zeros.
        x: `(B, C, ..., ...)`, in either memory format.
        gradient: `(B, O, H, W)`.
        pool: Where per-example gradients go.
    """
    x = F.pad(x, _margins(layer))
    positions, inputs, outputs = gradient[0, 0].numel(), layer.weight[0].numel(), len(layer.weight)
    if ghost_is_cheaper(positions, inputs, outputs):
        patches = F.unfold(
            x, _two(layer.kernel_size), dilation=_two(layer.dilation), stride=_two(layer.stride)
        )
        return Product(patches.mT, gradient.flatten(2).mT, pool)
    return Convolved(layer, x, gradient, pool)


class Convolved:
    """The gradients of a convolution's weight, example by example: `g_i = patches_i^T outputs_i`.

    Patches are laid out so that copies are long runs: S * C floats of a row of pixels, or W floats of a row of one
    channel if that is longer, as with one or three channels.
    """

    def __init__(self, layer: nn.Conv2d, x: Tensor, gradient: Tensor, pool: BufferPool) -> None:
        batch, outputs, height, width = gradient.shape
        _, channels, rows, columns = layer.weight.shape
        self._outputs = gradient.permute(0, 2, 3, 1).reshape(batch, height * width, outputs)
        (down, right), (step_down, step_right) = _two(layer.stride), _two(layer.dilation)
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


def _two(pair: tuple[int, ...]) -> tuple[int, int]:
    first, second = pair
    return first, second
