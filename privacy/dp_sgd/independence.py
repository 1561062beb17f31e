"""Checks that an example's loss and gradient don't depend on the other examples of a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.calls import copied
from fedsim.privacy.dp_sgd.examples import Examples
from fedsim.privacy.dp_sgd.passes import Batch, Pass, Passes, norm
from fedsim.privacy.dp_sgd.validator import check_state
from fedsim.privacy.halves import Losses

log = logging.getLogger(__name__)

ClippedSums = Callable[[nn.Module, Losses, float, Tensor, Tensor], Sequence[Tensor]]
"""`(model, losses, clip, inputs, labels)` to the clipped sum, one tensor a trainable parameter, in their order."""

SEED = 1016  # of the made-up examples and weights
SIZES = (2, 5)  # of batches, besides 1 and the given batch's
LEAST, LARGEST = 9, 16  # limits of the latter
OTHERS = (("large", "small"), ("equal", "any"), ("small", "large"))  # what replaces the others, for each size
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Relative change of a norm allowed between batch sizes: matrix products sum in another order.

A sum of n numbers is off by at most n u of the sum of their magnitudes, with u the unit of rounding (Higham 2002,
section 4.2), and by some sqrt(n) u as a rule (Higham and Mary 2019). In float64, u = 1e-16: 1e-10 for n = 1e6, and 1e-8
for a hundred such sums in a row; a factor of 100 is left for cancellation. In float32, u = 6e-8: 6e-5 as a rule for
n = 1e6, and at a kink more, so that one example of `TRIES` has to agree. What another example may move beyond the
clip norm, unseen, is this share of it.
"""
TRIES = 3  # examples, of which one must agree: for a ReLU at its kink, rounding decides

BATCH = 3  # size of the batches in which a kernel is compared with autograd
CLOSE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""A kernel's largest relative error of the sum. Rounding is far below it; a kernel's safety margin on a norm is not,
if an example's positions nearly cancel. A missing layer or a wrong example is far above it."""

MEET = "examples meet before the loss, in the model or in the loss function"


@dataclass
class Independence:
    """Checks a model, and chooses its kernel, once for each set of its modules' modes (training or evaluation).

    Attributes:
        model, losses: As in `check_independent`.
        sums: Kernels' clipped sums by the kernel's name, the preferred one first.
        itself: `(inputs, labels)` to the clipped sum by the kernel in use, if `sums` come from another kind
            (compiling again would be slow); None: they don't.
        clip: That kernel's clip norm.
        most: That kernel's largest batch; None: any.
        seen: The chosen kernel in each of the modes that were checked.
        chosen: That of the last check.
    """

    model: nn.Module
    losses: Losses
    sums: Mapping[str, ClippedSums]
    itself: Callable[[Tensor, Tensor], Sequence[Tensor]] | None
    clip: float
    most: int | None
    seen: dict[tuple[bool, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chosen = next(iter(self.sums))

    def check(self, inputs: Tensor, labels: Tensor) -> None:
        """Check with a batch of at least one example, unless done before; raises `ValueError`."""
        modes = tuple(module.training for module in self.model.modules())
        if modes not in self.seen:
            check_independent(self.model, self.losses, inputs, labels)
            self.seen[modes] = self._choose(inputs, labels)
        self.chosen = self.seen[modes]

    def _choose(self, inputs: Tensor, labels: Tensor) -> str:
        """Return the first kernel whose gradients are autograd's; raises `ValueError` with the reason of the last."""
        generator = torch.Generator().manual_seed(SEED)
        reason: Exception | None = None
        with _one_thread():
            near, examples = _nearby(self.model, self.losses, inputs, labels, generator)
            for name, sums in self.sums.items():
                try:
                    _check_kernel(sums, near, examples)
                    self._check_itself(inputs, labels)
                except Exception as error:  # of whatever the user's model, PyTorch or Opacus can't do
                    reason = error
                    continue
                if reason is not None:
                    first = next(iter(self.sums))
                    log.info("dp-sgd: kernel %r can't take the model, %r does: %s", first, name, reason)
                return name
        raise ValueError(str(reason)) from reason

    def _check_itself(self, inputs: Tensor, labels: Tensor) -> None:
        """Refuse a model for which the clipped gradients of the kernel in use differ from autograd's.

        A model that draws random numbers is not checked: compiled code draws others.
        """
        if self.itself is None:
            return
        passes, generator = Passes(self.model, self.losses), torch.Generator().manual_seed(SEED)
        examples = Examples(inputs, labels, passes, generator)
        if not examples.ordinary:
            return
        batch = examples.take([i % examples.ordinary for i in range(min(BATCH, self.most or BATCH))])
        if not passes.one(batch, dropout=True).drew:
            _compare(self.itself(*batch), _clipped(_one_by_one(passes, batch), 1.0, self.clip))


def check_independent(model: nn.Module, losses: Losses, inputs: Tensor, labels: Tensor) -> None:
    """Refuse a model or loss in which an example's loss or gradient depends on the other examples of a batch.

    Clipping bounds an example's effect on its own gradient, not on others', so every guarantee of DP-SGD (Abadi et
    al. 2016) rests on this. Batches of several sizes, with examples made from the given ones, and with the model's
    weights and others near them, are checked for whether

    - a forward pass changes no state of the model, and a batch's results don't depend on earlier batches;
    - an example's loss, and its gradient over all trainable parameters, have the same bits where the others are
      replaced: by larger, smaller, and equal ones;
    - they are the same up to rounding (`ROUNDING`, in float64 where the model can be so) where the others are left
      out;
    - the loss has a gradient of exactly zero at the other examples, in the inputs and after each layer.

    Each alone can miss a dependence: a factor of the batch's size, a choice of the largest, a detached mean.
    Dependences that show only in rare batches, or in others than those made here, are not found.

    Compared passes use the same random numbers. Since a mask depends on the batch's size, dropout (`nn.Dropout` and
    its variants, `torch.nn.functional.dropout`) is switched off when batch sizes differ; a model with other random
    numbers is refused, as it can't be compared.

    Only copies of the model are run. PyTorch's default generator is left unchanged.

    Args:
        model: In the modes (training or evaluation) in which it is trained.
        losses: `(outputs, labels) -> (B,)`.
        inputs: At least one example, `(B, ...)`.
        labels: `(B, ...)`.

    Raises:
        ValueError: The model is refused, or no tried example has a finite loss. The message reveals only how many
            examples were used.
    """
    with _one_thread():
        check_state(model, inputs[:2])
        generator = torch.Generator().manual_seed(SEED)
        near, examples = _nearby(model, losses, inputs, labels, generator)
        sizes = [*SIZES, min(max(len(inputs), LEAST), LARGEST)]
        as_is = Passes(model, losses)
        exact = Examples(inputs, labels, as_is, generator)
        if exact.ordinary:  # else the model has diverged; copies with other weights can still be checked
            _check_replaced(as_is, exact, sizes)
        _check_memory(near, examples)
        _check_left_out(near, examples, sizes)


def _nearby(
    model: nn.Module, losses: Losses, inputs: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Passes, Examples]:
    """Return a copy of a model with perturbed weights, in float64 if possible, and examples for it.

    This reveals what zero weights hide, and avoids equal numbers by chance. If no loss is finite near the model's
    weights, the copy has small ones.
    """
    for small in (False, True):
        for dtype in (torch.float64, None):
            passes = Passes(model, losses, dtype)
            _move(passes.trained, generator, small=small)
            try:
                examples = Examples(inputs, labels, passes, generator)
                if not examples.ordinary:
                    continue
                if dtype is not None:
                    passes.one(examples.take([0]))
            except (RuntimeError, TypeError):
                if dtype is None:
                    raise
                continue  # a model that creates float32 tensors
            return passes, examples
    raise ValueError("the model's loss is finite for no example: whether its examples meet can't be seen")


@torch.no_grad()
def _move(parameters: list[nn.Parameter], generator: torch.Generator, *, small: bool) -> None:
    """Add normals of half its size to each parameter, or of a tenth of a usual initial one if it is zero."""
    for p in parameters:
        usual = max(p.numel() // max(len(p), 1) if p.dim() else 1, 1) ** -0.5
        size = 0.0 if small else 0.5 * p.square().mean().sqrt().item()
        normals = torch.empty_like(p).normal_(generator=generator)
        if small:
            p.zero_()
        p.add_(normals, alpha=max(size, usual if small else 0.1 * usual))


def _check_replaced(passes: Passes, examples: Examples, sizes: Sequence[int]) -> None:
    """Check that an example's results don't change with the others, with the same random numbers."""
    for number, size in enumerate(sizes):
        target, place = number % examples.ordinary, number % size
        batch = examples.around(target, size, place, "ordinary")
        base = passes.one(batch, place, dropout=True)
        if number == 0 and not base.same(passes.one(batch, place, dropout=True)):
            raise ValueError(
                "two passes over one batch differ, though PyTorch's default generator draws the same: the model"
                " draws random numbers from elsewhere; allowed: nn.Dropout"
            )
        for others in OTHERS[number]:
            other = passes.one(examples.around(target, size, place, others), place, dropout=True)
            _same(base, other, size)


def _check_left_out(passes: Passes, examples: Examples, sizes: Sequence[int]) -> None:
    """Check that an example's results in batches equal those by itself, without dropout."""
    alone = passes.one(examples.take([0]))
    if not alone.same(passes.one(examples.take([0]), seed=1)):
        raise ValueError(
            "the model draws random numbers beside those of dropout, so that an example can't be compared with"
            " itself in batches of different sizes; allowed: nn.Dropout and its kin, and"
            " torch.nn.functional.dropout"
        )
    tolerance = ROUNDING.get(alone.loss.dtype, ROUNDING[torch.float32])
    for number, size in enumerate(sizes):
        place = (number + 1) % size
        base = passes.one(examples.around(0, size, place, "ordinary"), place)
        _same(base, passes.one(examples.around(0, size, place, OTHERS[number][1]), place), size)
        if base.dropped != alone.dropped:
            raise ValueError("the model's dropout has another probability in a batch of another size")
        if not base.close(alone, tolerance) and not any(
            passes.one(examples.around(target, size, place, "ordinary"), place).close(
                passes.one(examples.take([target])), tolerance
            )
            for target in range(1, min(examples.ordinary, TRIES))
        ):
            raise ValueError(
                f"an example's loss, or its gradient, is another in a batch of {size} than by itself: {MEET}, or"
                " it has a factor of the batch's size"
            )


def _same(base: Pass, other: Pass, size: int) -> None:
    if not base.same(other):
        raise ValueError(
            f"an example's loss, or its gradient, is another where the other examples of a batch of {size} are"
            f" replaced: {MEET}"
        )
    if base.crosses or other.crosses:
        raise ValueError(
            f"an example's loss has a gradient at the other examples of a batch of {size}: {MEET}"
        )


def _check_memory(passes: Passes, examples: Examples) -> None:
    """Check that a batch's results don't depend on earlier batches."""
    batch = examples.around(0, 3, 0, "ordinary")
    earlier = [
        examples.around(0, size, 0, others) for size, others in ((3, "large"), (3, "small"), (5, "any"))
    ]
    first, *rest = (passes.one(batch, before=before) for before in earlier)
    if not all(first.same(other) for other in rest):
        raise ValueError(
            "what the model makes of a batch depends on the batches before it: it keeps something of their examples,"
            " which no noise is added to"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread inside the block: several may sum in different orders."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_kernel(sums: ClippedSums, passes: Passes, examples: Examples) -> None:
    """Refuse a model for which a kernel's clipped gradients differ from autograd's.

    They differ if a weight is used outside its layer, if a layer's first dimension is not the example, or if a user's
    own grad sampler is wrong. The gradient of each of several examples of a batch is compared, and the sum of all,
    clipped, without dropout.
    """
    batch = examples.take([i % examples.ordinary for i in range(BATCH)])
    each = _one_by_one(passes, batch)
    norms = [norm(one.gradient) for one in each]
    for i, one in enumerate(each):
        alone = torch.arange(BATCH) == i
        factor = 0.5 / max(norms[i], 1e-6)
        _compare(_by_kernel(sums, passes, batch, factor * alone), _clipped([one], factor, 1.0))
    factor = 2 / max(min(norms), 1e-6)
    _compare(_by_kernel(sums, passes, batch, factor), _clipped(each, factor, 1.0))


def _by_kernel(sums: ClippedSums, passes: Passes, batch: Batch, factor: float | Tensor) -> Sequence[Tensor]:
    """Return the sum, clipped to 1, of losses times a factor (or one for each)."""
    losses, (inputs, labels) = passes.fresh_losses(), passes.of(batch)
    factors = torch.as_tensor(factor).expand(len(inputs))
    model, numbers = copied(passes.model), torch.arange(len(inputs))
    with passes.quiet():  # a kernel may ask for some of the losses alone
        return sums(model, lambda o, i: losses(o, labels[i]) * factors[i], 1.0, inputs.clone(), numbers)


def _one_by_one(passes: Passes, batch: Batch) -> list[Pass]:
    inputs, labels = batch
    return [passes.one((inputs[i : i + 1], labels[i : i + 1])) for i in range(len(inputs))]


def _clipped(each: Sequence[Pass], factor: float, clip: float) -> list[Tensor]:
    """Return the sum of the gradients, each times a factor and clipped."""
    total = [torch.zeros_like(g) for g in each[0].gradient]
    for one in each:
        share = factor * min(1.0, clip / (factor * norm(one.gradient) + 1e-6))
        for part, gradient in zip(total, one.gradient, strict=True):
            part.add_(gradient, alpha=share)
    return total


def _compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    away = norm(a - b for a, b in zip(found, expected, strict=True))
    if not away <= CLOSE.get(expected[0].dtype, CLOSE[torch.float32]) * norm(expected):
        raise ValueError(
            "the kernel's sum of clipped gradients is not that of autograd, one example at a time: a layer's weight is"
            " used outside of the layer, a layer's first dimension is not the batch, or a grad sampler is wrong"
        )
