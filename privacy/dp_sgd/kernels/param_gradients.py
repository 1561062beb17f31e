"""One parameter's per-example gradients: their squared norms and their weighted sum, at the least cost.

Legend: B examples, T positions (time steps, pixels; 1 without), I inputs, O outputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.rounding import MARGIN, SINGLE, clip_factors

Buffers = Mapping[nn.Parameter, Tensor]
MOST_KEPT = 512  # tensors with cached views: some ten for each batch size
PIECE = 4096  # rows of a product that are converted to float64 at a time
# Cost of writing a float of per-example gradient and reading it twice, in multiply-adds of a matrix product: some 10
# bytes against 30 multiply-adds a nanosecond.
MEMORY = 20


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
        """Return a contiguous uninitialised tensor of this shape, of the dtype of `like`."""
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


@dataclass(frozen=True)
class Weighted:
    """A parameter's sum over examples before its last product, which `put_into` computes.

    Attributes:
        left: `(N, O)`; without a `right`, the sum itself.
        right: `(N, I)` or `(N,)`: the sum is `left^T right`.
    """

    left: Tensor
    right: Tensor | None = None

    def put_into(self, buffer: Tensor) -> None:
        """Put the sum into the parameter's contiguous buffer; it is computed in the widest dtype of the three."""
        if self.right is None:
            buffer.copy_(self.left)
            return
        whole = buffer.view(-1) if self.right.dim() == 1 else buffer.view(len(buffer), -1)
        if self.left.dtype == self.right.dtype == buffer.dtype:
            torch.matmul(self.left.t(), self.right, out=whole)
            return
        total = torch.zeros_like(whole, dtype=torch.float64)
        for start in range(0, len(self.left), PIECE):
            some = slice(start, start + PIECE)
            total += self.left[some].t().double() @ self.right[some].double()
        whole.copy_(total)


class Part(Protocol):
    """A parameter's part in a batch's clipped sum."""

    def squares(self) -> Tensor:
        """Return the squared norms of the per-example gradients, `(B,)`, float64: exact, or an upper bound."""

    def keep(self, finite: Tensor) -> None:
        """Zero the gradients of examples that are not `finite`, booleans `(B,)`, after `squares`."""

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`, for factors `(B,)`; float64 factors give float64."""


class Rows:
    """Materialised per-example gradients, as rows `(B, ...)`."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows.reshape(len(rows), -1)

    def squares(self) -> Tensor:
        """Return the squared norms of the per-example gradients, `(B,)`."""
        return squared(self._rows)

    def keep(self, finite: Tensor) -> None:
        """Make the gradients of other examples zero."""
        self._rows = only(finite, self._rows)

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`."""
        return Weighted(self._rows, factors)


@dataclass
class Product:
    """Gradients `g_i = sum_t outputs[i, t] inputs[i, t]^T` of a matrix applied at T positions.

    With one position the norm is the product of two norms (Goodfellow 2015, arXiv 1510.01799). With more,
    `||g_i||^2 = sum_{s,t} <inputs_s, inputs_t> <outputs_s, outputs_t>` (the "ghost norm": Li et al. 2022, arXiv
    2110.05679), or that of g_i itself, whichever is cheaper.

    Attributes:
        inputs: `(B, T, I)`.
        outputs: `(B, T, O)`, the loss's gradient there.
        pool: Where per-example gradients go.
        rows: Those, where `squares` computed them.
    """

    inputs: Tensor
    outputs: Tensor
    pool: BufferPool
    rows: Rows | None = None

    def squares(self) -> Tensor:
        """Return the squared norms of the per-example gradients, `(B,)`."""
        (batch, positions, i), o = self.inputs.shape, self.outputs.shape[2]
        if positions == 1:
            return squared(self.inputs[:, 0]) * squared(self.outputs[:, 0])
        if ghost_is_cheaper(positions, i, o):
            inner = (self.inputs @ self.inputs.mT).mul_(self.outputs @ self.outputs.mT)
            return _total(inner, _norms(self.inputs) * _norms(self.outputs), i + o)
        gradients = self.pool.empty(batch, o, i, like=self.inputs)
        self.rows = Rows(torch.bmm(self.outputs.mT, self.inputs, out=gradients))
        return self.rows.squares()

    def keep(self, finite: Tensor) -> None:
        """Make the gradients of other examples zero."""
        if self.rows is not None:
            self.rows.keep(finite)
        self.inputs, self.outputs = only(finite, self.inputs), only(finite, self.outputs)

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`."""
        if self.rows is not None:
            return self.rows.weighted(factors)
        if self.inputs.shape[1] > 1:  # an example's positions may cancel
            factors = factors.double()
        outputs = self.outputs * factors.view(-1, 1, 1)
        return Weighted(outputs.flatten(0, 1), self.inputs.flatten(0, 1))


def lookup_part(rows: int, tokens: Tensor, outputs: Tensor) -> Part:
    """Return the part of a table: whole per-example gradients if it is small, else a `Lookup`; arguments as there."""
    (batch, positions), size = tokens.shape, outputs.shape[2]
    if rows * MEMORY > positions**2:
        return Lookup(rows, tokens, outputs)
    gradients = outputs.new_zeros(batch * rows, size)
    of_example = torch.arange(0, batch * rows, rows).unsqueeze(1)
    gradients.index_add_(0, (tokens + of_example).flatten(), outputs.flatten(0, 1))
    return Rows(gradients.view(batch, -1))


@dataclass
class Lookup:
    """Gradients of a table's rows: those at equal tokens of an example are added up.

    `||g_i||^2 = sum_{s,t} [tokens_s = tokens_t] <outputs_s, outputs_t>`.

    Attributes:
        rows: V, the rows of the table.
        tokens: `(B, T)`, whole numbers below V.
        outputs: `(B, T, O)`, the loss's gradient there; zero for an untrained token.
    """

    rows: int
    tokens: Tensor
    outputs: Tensor

    def squares(self) -> Tensor:
        """Return the squared norms of the per-example gradients, `(B,)`."""
        inner = self.outputs @ self.outputs.mT
        # Not a product with 0 and 1: an infinite entry must neither become NaN nor disappear.
        inner.masked_fill_(self.tokens.unsqueeze(1) != self.tokens.unsqueeze(2), 0.0)
        return _total(inner, _norms(self.outputs), self.outputs.shape[2])

    def keep(self, finite: Tensor) -> None:
        """Make the gradients of other examples zero."""
        self.outputs = only(finite, self.outputs)

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`."""
        outputs = self.outputs * factors.double().view(-1, 1, 1)
        pieces = zip(torch.split(outputs, SINGLE), torch.split(self.tokens, SINGLE), strict=True)
        sums = [
            torch.ops.aten.embedding_dense_backward(some, tokens, self.rows, -1, False)
            for some, tokens in pieces
        ]
        return Weighted(sums[0] if len(sums) == 1 else torch.stack(sums).sum(0))


def clipped_sums(
    losses: Tensor, parts: Mapping[nn.Parameter, Part], clip: float, chosen: Tensor | None = None
) -> tuple[Tensor, dict[nn.Parameter, Weighted]]:
    """Return which examples have a finite loss and gradient, `(B,)`, and the sums of these clipped gradients.

    With `chosen`, booleans `(B,)`, those alone are in the sums, and nothing is decided by a tensor's values.
    """
    squares = torch.stack([part.squares() for part in parts.values()]).sum(0)
    finite = losses.isfinite() & squares.isfinite()
    if chosen is not None or not finite.all():
        for part in parts.values():
            part.keep(finite)
        squares = only(finite, squares)
    dtypes = {parameter.dtype for parameter in parts}
    factors = clip_factors(squares, clip, dtypes.pop() if len(dtypes) == 1 else torch.float64)
    if chosen is not None:
        factors = only(chosen, factors)
    return finite, {parameter: part.weighted(factors) for parameter, part in parts.items()}


def put(sums: Mapping[nn.Parameter, Weighted], buffers: Buffers) -> None:
    """Put the sums into the buffers; a parameter without a sum has zero."""
    for parameter, buffer in buffers.items():
        if parameter in sums:
            sums[parameter].put_into(buffer)
        else:
            buffer.zero_()


def squared(rows: Tensor) -> Tensor:
    """Return the squared norms `(B,)`, float64, of rows `(B, ...)`."""
    norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1, dtype=torch.float64)
    return norms.square_()


def only(finite: Tensor, values: Tensor) -> Tensor:
    """Return values `(B, ...)` with zeros for examples that are not `finite`, booleans `(B,)`."""
    return torch.where(finite.view(-1, *[1] * (values.dim() - 1)), values, 0.0)


def _total(inner: Tensor, norms: Tensor, terms: int) -> Tensor:
    """Return the sums of `inner`, plus a bound on their rounding error.

    If the positions' gradients cancel, the sum is a small difference of large numbers, and rounding could make it
    zero: the example would not be clipped. An entry combines two inner products of `terms` numbers in all, and is off
    by at most `(terms + 4) u` times the product of two of the norms, `(B, T)`. That share of the square of their sum,
    at least `MARGIN`, is added: norms err upwards, so clipped gradients stay below C.
    """
    unit = torch.finfo(inner.dtype).eps / 2
    margin = norms.sum(1).square_().mul_(max(1.01 * (terms + 4) * unit, MARGIN))
    return inner.sum((1, 2), dtype=torch.float64).clamp_(min=0.0).add_(margin)


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=2, dtype=torch.float64)
    return norms


def ghost_is_cheaper(positions: int, inputs: int, outputs: int) -> bool:
    """Return whether an example's norm is cheaper from products of positions than from its gradient.

    The former takes T^2 (I + O) multiplications, plus T I O for the weighted sum; the latter T I O, and I O floats of
    memory for norm and sum.
    """
    return positions**2 * (inputs + outputs) < MEMORY * inputs * outputs
