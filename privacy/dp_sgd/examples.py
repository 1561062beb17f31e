"""Synthetic examples like those of a batch, to test whether a model mixes them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.passes import Batch, Passes

KINDS, EACH = 3, 4  # ordinary, large and small examples; number of each
_SCALES = (1.0, 4.0, 0.05)
_MOST = 16  # rows of the batch that are used


class Examples:
    """Examples made from a batch's, with finite losses.

    Real numbers are those of a row of the batch, perturbed by a third of their value and a tenth of the usual one at
    their position, and multiplied by 1, 4 or 0.05, so that the largest example differs between sets. Integers are
    drawn from a column of the batch, or below the size of the smallest nn.Embedding (or the largest number in the
    batch). If the model does not accept these, real numbers keep their sign and integers their column; if it does not
    accept those either, rows stay as in the batch. NaN and infinities of the batch are not used.

    Args:
        inputs: At least one, `(B, ...)`.
        labels: `(B, ...)`.
        passes: Over a copy of the model.
        generator: Draws them.

    Raises:
        ValueError: The batch has unequal numbers of inputs and labels.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, passes: Passes, generator: torch.Generator) -> None:
        if len(inputs) != len(labels):
            raise ValueError(f"{len(inputs)} inputs and {len(labels)} labels: must be as many")
        tables = [m.num_embeddings for m in passes.model.modules() if isinstance(m, nn.Embedding)]
        rows = _finite(inputs.detach(), labels.detach())
        for how in ("freely", "by column", "by row"):
            batch = _drawn(rows, how, min(tables, default=0), generator)
            try:
                good = _finite_losses(batch, passes.losses)
            except (IndexError, RuntimeError, ValueError):
                if how == "by row":  # it does not accept its own batch either
                    raise
                continue
            if good[:EACH].any():
                break
        self._batch = batch
        self._groups = [[i for i in range(k * EACH, (k + 1) * EACH) if good[i]] for k in range(KINDS)]
        self._generator = generator

    @property
    def ordinary(self) -> int:
        """Number of ordinary examples."""
        return len(self._groups[0])

    def take(self, indices: list[int]) -> Batch:
        """Return some ordinary examples, by their number."""
        chosen = [self._groups[0][i] for i in indices]
        return self._batch[0][chosen], self._batch[1][chosen]

    def around(self, target: int, batch: int, place: int, others: str) -> Batch:
        """Return a batch with one ordinary example at a place.

        Args:
            target: Number of the ordinary example.
            batch: Size of the batch.
            place: Its position.
            others: Kind of the other examples: `ordinary`, `large`, `small` or `any`; `equal`: the example itself.
        """
        own = self._groups[0][target]
        each = [i for group in self._groups for i in group]
        groups = dict(zip(("ordinary", "large", "small", "any"), (*self._groups, each), strict=True))
        pool = [own] if others == "equal" else [i for i in groups[others] if i != own] or each
        chosen = [pool[i] for i in _integers(len(pool), (batch,), self._generator).tolist()]
        chosen[place] = own
        return self._batch[0][chosen], self._batch[1][chosen]


def _drawn(rows: Batch, how: str, bound: int, generator: torch.Generator) -> Batch:
    """Return `KINDS * EACH` examples of each kind in turn; `bound` is that of tokens, 0 if it is unknown."""
    count = KINDS * EACH
    chosen = _integers(len(rows[0]), (count,), generator)
    scales = torch.tensor(_SCALES).repeat_interleave(EACH)
    inputs, labels = rows
    if inputs.is_floating_point():
        made = _numbers(inputs, how, chosen, generator) * _along(scales, inputs).to(inputs.dtype)
    else:
        made = _whole_numbers(inputs, how, bound, chosen, generator)
    if labels.is_floating_point():  # towards zero, so that values in [0, 1] stay there
        shrunk = 0.5 + 0.5 * torch.empty(count).uniform_(generator=generator)
        return made, labels[chosen] * _along(shrunk, labels).to(labels.dtype)
    return made, _whole_numbers(labels, how, 0, chosen, generator)


def _whole_numbers(rows: Tensor, how: str, bound: int, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Return integers; drawn freely, each is from its column or from all below the bound, with equal probability."""
    if how == "by row":
        return rows[chosen]
    column = rows.gather(0, _integers(len(rows), (len(chosen), *rows.shape[1:]), generator))
    if how == "by column":
        return column
    if rows.dtype == torch.bool:
        return _integers(2, column.shape, generator).bool()
    low, high = int(rows.min()), int(rows.max())
    if low < 0:  # such as an ignored label
        return column
    free = _integers(bound or max(high + 1, 2), column.shape, generator).to(rows.dtype)
    return torch.where(_integers(2, column.shape, generator).bool(), column, free)


def _numbers(rows: Tensor, how: str, chosen: Tensor, generator: torch.Generator) -> Tensor:
    if how == "by row":
        return rows[chosen]
    numbers = rows.double()
    usual = numbers.square().mean(0).sqrt()
    overall = usual.square().mean().sqrt().item()
    usual = usual.clamp(min=0.1 * overall if overall > 0 else 10.0)
    shape = (len(chosen), *rows.shape[1:])
    by = [torch.empty(shape, dtype=torch.float64).normal_(generator=generator) for _ in range(2)]
    if how == "by column":
        return (numbers[chosen] * (0.3 * by[0]).exp()).to(rows.dtype)
    return (numbers[chosen] * (1 + 0.3 * by[0]) + 0.1 * usual * by[1]).to(rows.dtype)


def _finite_losses(batch: Batch, losses: Callable[[Batch], Tensor]) -> Tensor:
    """Return which examples have a finite loss, `(B,)`."""
    good = losses(batch).isfinite()
    if good.all():
        return good
    # One at a time: if the model mixes examples, one could affect the rest.
    inputs, labels = batch
    return torch.cat([losses((inputs[i : i + 1], labels[i : i + 1])) for i in range(len(good))]).isfinite()


def _finite(inputs: Tensor, labels: Tensor) -> Batch:
    """Return the finite rows; if there are none, all rows with zeros for non-finite values."""
    good = torch.ones(len(inputs), dtype=torch.bool)
    for tensor in (inputs, labels):
        if tensor.is_floating_point():
            good &= tensor.isfinite().flatten(1).all(1) if tensor.dim() > 1 else tensor.isfinite()
    if good.any():
        return inputs[good][:_MOST], labels[good][:_MOST]
    first, second = (
        torch.nan_to_num(t[:1], 0.0, 0.0, 0.0) if t.is_floating_point() else t[:1] for t in (inputs, labels)
    )
    return first, second


def _along(values: Tensor, rows: Tensor) -> Tensor:
    return values.view(-1, *[1] * (rows.dim() - 1))


def _integers(bound: int, shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=torch.long)
    return torch.empty(shape, dtype=torch.long).random_(bound, generator=generator)
