"""Memory that successive batches reuse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST_KEPT = 512  # tensors with cached views: some ten for each batch size


class BufferPool:
    """Hands out tensors; the next batch reuses their memory in the same order.

    Large blocks allocated for each batch would return to the operating system in between, and be faulted in page by
    page again: a third of an LSTM's step. Batches of DP-SGD differ in size, so a block grows to the largest, and a
    smaller batch takes its beginning.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._taken = 0
        self._steps: dict[tuple[object, ...], tuple[Tensor, ...]] = {}

    def begin(self) -> None:
        """Take all tensors back; their contents are no longer needed."""
        self._taken = 0

    def empty(self, *shape: int, like: Tensor) -> Tensor:
        """Return a contiguous uninitialised tensor.

        Args:
            shape: Its shape.
            like: A tensor of the dtype.
        """
        size = math.prod(shape)
        if self._taken == len(self._blocks):
            self._blocks.append(like.new_empty(size))
        block = self._blocks[self._taken]
        if block.numel() < size or block.dtype != like.dtype:
            block = self._blocks[self._taken] = torch.empty(size, dtype=like.dtype)
            self._steps.clear()
        self._taken += 1
        return block[:size].view(shape)

    def steps(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return `tensor.unbind(1)`, of a tensor of this pool, or a view of one: the same views batch after batch.

        Making them takes as long as a small operation on them.
        """
        key = (tensor.data_ptr(), *tensor.shape, *tensor.stride())
        if key not in self._steps:
            if len(self._steps) == MOST_KEPT:
                self._steps.clear()
            self._steps[key] = tensor.unbind(1)
        return self._steps[key]
