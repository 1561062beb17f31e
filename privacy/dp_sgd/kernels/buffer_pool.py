"""Memory that one batch after another uses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST_KEPT = 512  # tensors whose views are kept: some ten for each size of a batch


class Arena:
    """Hands out tensors whose memory the next batch uses again, in the same order.

    Large blocks that are allocated for each batch go back to the operating system in between, and are faulted
    in page by page when they return: a third of an LSTM's step. Batches of DP-SGD differ in size, so a block
    grows to the largest, and a smaller batch takes its beginning.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._taken = 0
        self._steps: dict[tuple[object, ...], tuple[Tensor, ...]] = {}

    def begin(self) -> None:
        """Take all tensors back: what they hold is no longer needed."""
        self._taken = 0

    def empty(self, *shape: int, like: Tensor) -> Tensor:
        """Return a contiguous tensor of a shape, whose values are whatever was there.

        Args:
            shape: Its shape.
            like: Of the same dtype.
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
        """Return `tensor.unbind(1)`, of a tensor of this arena's or a view of one: the same views batch after batch.

        Making them takes as long as a small operation on them.
        """
        key = (tensor.data_ptr(), *tensor.shape, *tensor.stride())
        if key not in self._steps:
            if len(self._steps) == MOST_KEPT:
                self._steps.clear()
            self._steps[key] = tensor.unbind(1)
        return self._steps[key]
