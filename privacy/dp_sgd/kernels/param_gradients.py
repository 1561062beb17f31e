"""One parameter's per-example gradients: their squared norms and their weighted sum, without more than it takes.

Legend: B examples, T positions (time steps, pixels; 1 without), I inputs, O outputs of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedsim.privacy.dp_sgd.kernels.buffer_pool import Arena
from fedsim.privacy.dp_sgd.rounding import MARGIN, SINGLE

PIECE = 4096  # rows of a product that are converted to float64 at a time
# What it costs to write a float of per-example gradient and to read it twice, in multiplications and additions
# inside a matrix product: some 10 bytes against 30 of them a nanosecond.
MEMORY = 20


@dataclass(frozen=True)
class Weighted:
    """A parameter's sum over examples, short of its last product, which is done as it is put into a buffer.

    Attributes:
        left: `(N, O)`; the sum itself where there is no `right`.
        right: `(N, I)` or `(N,)`: the sum is `left^T right`.
    """

    left: Tensor
    right: Tensor | None = None

    def put_into(self, buffer: Tensor) -> None:
        """Put the sum into the parameter's buffer, contiguous; it is summed in the widest dtype of the three."""
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
        """Make the gradients of other examples than the `finite`, booleans `(B,)`, zero; `squares` came before."""

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`, for factors `(B,)`; of float64 ones, in float64."""


class Rows:
    """Per-example gradients that are there, as rows `(B, ...)`."""

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


class Product:
    """Gradients `g_i = sum_t outputs[i, t] inputs[i, t]^T`, as those of a matrix that is applied at T positions.

    With one position the norm is the product of two norms (Goodfellow 2015, arXiv 1510.01799). With more,
    `||g_i||^2 = sum_{s,t} <inputs_s, inputs_t> <outputs_s, outputs_t>` (the "ghost norm": Li et al. 2022, arXiv
    2110.05679), or that of g_i itself, whichever is cheaper.

    Args:
        inputs: `(B, T, I)`.
        outputs: `(B, T, O)`, the loss's gradient there.
        arena: Where per-example gradients go.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, arena: Arena) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._arena = arena
        self._rows: Rows | None = None

    def squares(self) -> Tensor:
        """Return the squared norms of the per-example gradients, `(B,)`."""
        (batch, positions, i), o = self._inputs.shape, self._outputs.shape[2]
        if positions == 1:
            return squared(self._inputs[:, 0]) * squared(self._outputs[:, 0])
        if ghost_is_cheaper(positions, i, o):
            inner = (self._inputs @ self._inputs.mT).mul_(self._outputs @ self._outputs.mT)
            return _total(inner, _norms(self._inputs) * _norms(self._outputs), i + o)
        gradients = self._arena.empty(batch, o, i, like=self._inputs)
        self._rows = Rows(torch.bmm(self._outputs.mT, self._inputs, out=gradients))
        return self._rows.squares()

    def keep(self, finite: Tensor) -> None:
        """Make the gradients of other examples zero."""
        if self._rows is not None:
            self._rows.keep(finite)
        self._inputs, self._outputs = only(finite, self._inputs), only(finite, self._outputs)

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`."""
        if self._rows is not None:
            return self._rows.weighted(factors)
        if self._inputs.shape[1] > 1:  # an example's positions may cancel
            factors = factors.double()
        outputs = self._outputs * factors.view(-1, 1, 1)
        return Weighted(outputs.flatten(0, 1), self._inputs.flatten(0, 1))


def lookup_part(rows: int, tokens: Tensor, outputs: Tensor) -> Part:
    """Return the part of a table: by examples' whole gradients where it is small, else by `Lookup`, whose arguments these are."""
    (batch, positions), size = tokens.shape, outputs.shape[2]
    if rows * MEMORY > positions**2:
        return Lookup(rows, tokens, outputs)
    gradients = outputs.new_zeros(batch * rows, size)
    of_example = torch.arange(0, batch * rows, rows).unsqueeze(1)
    gradients.index_add_(0, (tokens + of_example).flatten(), outputs.flatten(0, 1))
    return Rows(gradients.view(batch, -1))


class Lookup:
    """Gradients of a table's rows: those at equal tokens of an example are added up.

    `||g_i||^2 = sum_{s,t} [tokens_s = tokens_t] <outputs_s, outputs_t>`.

    Args:
        rows: V, those of the table.
        tokens: `(B, T)`, whole numbers below V.
        outputs: `(B, T, O)`, the loss's gradient there; zero at a token that is not trained.
    """

    def __init__(self, rows: int, tokens: Tensor, outputs: Tensor) -> None:
        self._rows = rows
        self._tokens = tokens
        self._outputs = outputs

    def squares(self) -> Tensor:
        """Return the squared norms of the per-example gradients, `(B,)`."""
        inner = self._outputs @ self._outputs.mT
        # Not a product with 0 and 1: an infinite entry must not become NaN, nor hide.
        inner.masked_fill_(self._tokens.unsqueeze(1) != self._tokens.unsqueeze(2), 0.0)
        return _total(inner, _norms(self._outputs), self._outputs.shape[2])

    def keep(self, finite: Tensor) -> None:
        """Make the gradients of other examples zero."""
        self._outputs = only(finite, self._outputs)

    def weighted(self, factors: Tensor) -> Weighted:
        """Return `sum_i factors[i] * g_i`."""
        outputs = self._outputs * factors.double().view(-1, 1, 1)
        sums = [
            torch.ops.aten.embedding_dense_backward(some, tokens, self._rows, -1, False)
            for some, tokens in zip(
                torch.split(outputs, SINGLE), torch.split(self._tokens, SINGLE), strict=True
            )
        ]
        return Weighted(sums[0] if len(sums) == 1 else torch.stack(sums).sum(0))


def squared(rows: Tensor) -> Tensor:
    """Return the squared norms `(B,)`, float64, of rows `(B, ...)`."""
    norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1, dtype=torch.float64)
    return norms.square_()


def only(finite: Tensor, values: Tensor) -> Tensor:
    """Return values `(B, ...)` with zeros in the place of other examples than the `finite`, booleans `(B,)`."""
    return torch.where(finite.view(-1, *[1] * (values.dim() - 1)), values, 0.0)


def _total(inner: Tensor, norms: Tensor, terms: int) -> Tensor:
    """Return the sums of `inner`, and what rounding may have taken from them.

    Where the positions' gradients cancel, the sum is a small difference of large numbers, and rounding alone
    could make it zero: the example would not be clipped. An entry is made of two inner products of `terms` numbers
    together, and so is off by at most `(terms + 4) u` times the product of two of the norms, `(B, T)`; so much of the
    square of their sum is added, or `MARGIN` of it: a norm errs upwards, and what is clipped stays below C.
    """
    unit = torch.finfo(inner.dtype).eps / 2
    margin = norms.sum(1).square_().mul_(max(1.01 * (terms + 4) * unit, MARGIN))
    return inner.sum((1, 2), dtype=torch.float64).clamp_(min=0.0).add_(margin)


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=2, dtype=torch.float64)
    return norms


def ghost_is_cheaper(positions: int, inputs: int, outputs: int) -> bool:
    """Return whether an example's norm costs less from products of positions than from its gradient.

    The former takes T^2 (I + O) multiplications, and the weighted sum T I O beside; the latter T I O, and I O
    floats of memory for norm and sum.
    """
    return positions**2 * (inputs + outputs) < MEMORY * inputs * outputs
