"""Whether an example's loss and gradient are its own, whatever the other examples of a batch are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.agreement import ClippedSums, check_as_it_is, check_kernel, try_kernel
from fedsim.privacy.dp_sgd.examples import Examples
from fedsim.privacy.dp_sgd.passes import Batch, Losses, Pass, Passes
from fedsim.privacy.dp_sgd.state import check_state

SEED = 1016  # of the made-up examples and weights
SIZES = (2, 5)  # of batches, beside 1 and that of the batch that is given
LEAST, LARGEST = 9, 16  # of the latter
OTHERS = (("large", "small"), ("equal", "any"), ("small", "large"))  # that replace others, for each size
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Of a norm, what another size of a batch may change: its matrix products add up in another order.

A sum of n numbers is off by at most n u of the sum of their magnitudes, with u the unit of rounding (Higham 2002,
section 4.2), and by some sqrt(n) u as a rule (Higham and Mary 2019). In float64, u = 1e-16: 1e-10 for n = 1e6, and 1e-8
for a hundred such sums in a row; a factor of 100 is left for cancellation. In float32, u = 6e-8: 6e-5 as a rule for
n = 1e6, and at a kink more, so that one example of `TRIES` has to agree. What another example may move beyond the
clip norm, unseen, is this share of it.
"""
TRIES = 3  # examples, of which one must agree: where one has a ReLU at its kink, rounding decides

MEET = "examples meet before the loss, in the model or in the loss function"


class Independence:
    """Checks a model that a kernel trains: once, and once more in each other set of modes, training or not.

    Args:
        model: As in `check_independent`.
        losses: As there.
        sums: As there.
        itself: `(inputs, labels)` to the clipped sum by the kernel that is used, where `sums` are not by one like it
            (compiled code would take as long to make again); None: they are.
        clip: Of that kernel.
        most: Examples that it takes at most.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        sums: ClippedSums,
        itself: Callable[[Tensor, Tensor], Sequence[Tensor]] | None,
        clip: float,
        most: int | None,
    ) -> None:
        self._model = model
        self._losses = losses
        self._sums = sums
        self._itself = itself
        self._clip = clip
        self._most = most
        self._seen: set[tuple[bool, ...]] = set()

    def check(self, inputs: Tensor, labels: Tensor) -> None:
        """Check by a batch of at least one example, if that has not been done; raises `ValueError`."""
        modes = tuple(module.training for module in self._model.modules())
        if modes in self._seen:
            return
        check_independent(self._model, self._losses, inputs, labels, sums=self._sums)
        if self._itself is not None:
            passes, generator = Passes(self._model, self._losses), torch.Generator().manual_seed(SEED)
            examples = Examples(inputs, labels, passes.model, passes.losses, generator)
            if examples.ordinary:
                check_as_it_is(self._itself, passes, examples, self._clip, self._most)
        self._seen.add(modes)


def check_independent(
    model: nn.Module, losses: Losses, inputs: Tensor, labels: Tensor, *, sums: ClippedSums | None = None
) -> None:
    """Refuse a model, or losses, by which an example's loss or gradient depends on the other examples of a batch.

    Clipping bounds what an example does to its own gradient. What it does to those of others nothing bounds, so
    that all guarantees of DP-SGD (Abadi et al. 2016) rest on this. Seen in batches of several sizes, of examples
    made from those given, with the model's weights as they are and with others near them, is whether

    - the kernel finds the clipped gradients that autograd finds, one example at a time (`check_kernel`);
    - a pass forward changes nothing that the model holds, and a batch is what it is whatever came before it;
    - an example's loss, and its gradient over all trainable parameters, have the same bits where the others are
      replaced: by larger, smaller, and equal ones;
    - they are the same up to rounding (`ROUNDING`, in float64 where the model can be so) where the others are left
      out;
    - the loss has a gradient of exactly zero at the other examples, in the inputs and after each layer.

    Each alone is fooled: by a factor of the batch's size the first, by a choice of the largest the second, by a
    mean that is detached the last. What shows in rare batches only, or in others than are made here, is not seen.

    Random numbers are the same in the passes that are compared. As a mask depends on the batch's size, dropout
    (`nn.Dropout` and its kin, `torch.nn.functional.dropout`) is left out where others are; a model that draws
    something else can't be compared then, and is refused.

    The model is not run: copies of it are. PyTorch's default generator is left as it was.

    Args:
        model: In the modes, training or not, in which it is trained.
        losses: `(outputs, labels) -> (B,)`.
        inputs: At least one example, `(B, ...)`.
        labels: `(B, ...)`.
        sums: By a kernel, whose gradients are compared with those of autograd; None: there is no kernel.

    Raises:
        ValueError: The model is refused, or its loss is finite for nothing that was tried. The message holds
            nothing of the examples but how many were looked at.
    """
    with _one_thread():
        check_state(model, inputs[:2])
        generator = torch.Generator().manual_seed(SEED)
        near, examples = _nearby(model, losses, inputs, labels, generator)
        if sums is not None:
            try_kernel(sums, near, examples)
        sizes = [*SIZES, min(max(len(inputs), LEAST), LARGEST)]
        as_is = Passes(model, losses)
        exact = Examples(inputs, labels, as_is.model, as_is.losses, generator)
        if exact.ordinary:  # else the model has diverged; what it is made of can be seen all the same
            _check_replaced(as_is, exact, sizes)
        _check_memory(near, examples)
        _check_left_out(near, examples, sizes)
        if sums is not None:
            check_kernel(sums, near, examples)


def _nearby(
    model: nn.Module, losses: Losses, inputs: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Passes, Examples]:
    """Return a copy of a model whose weights are moved, in float64 where it can be so, and examples for it.

    What weights of zero hide shows then, and no two numbers are equal by chance. Where the loss is finite nowhere
    near the model's weights, the copy has small ones.

    Raises:
        ValueError: The loss is finite for nothing that was tried.
    """
    for small in (False, True):
        for dtype in (torch.float64, None):
            passes = Passes(model, losses, dtype)
            _move(passes.trained, generator, small=small)
            try:
                examples = Examples(inputs, labels, passes.model, passes.losses, generator)
                if not examples.ordinary:
                    continue
                if dtype is not None:
                    passes.one(examples.take([0]))
            except (RuntimeError, TypeError):
                if dtype is None:
                    raise
                continue  # a model that makes float32 numbers of its own
            return passes, examples
    raise ValueError("the model's loss is finite for no example: whether its examples meet can't be seen")


@torch.no_grad()
def _move(parameters: list[nn.Parameter], generator: torch.Generator, *, small: bool) -> None:
    """Add to each parameter normals of half its size, or of a tenth of a usual first one if it is zero."""
    for p in parameters:
        usual = max(p.numel() // max(len(p), 1) if p.dim() else 1, 1) ** -0.5
        size = 0.0 if small else 0.5 * p.square().mean().sqrt().item()
        normals = torch.empty_like(p).normal_(generator=generator)
        if small:
            p.zero_()
        p.add_(normals, alpha=max(size, usual if small else 0.1 * usual))


def _check_replaced(passes: Passes, examples: Examples, sizes: Sequence[int]) -> None:
    """See that nothing of an example changes where the others do, all random numbers being drawn again."""
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
    """See that an example is in batches what it is by itself, dropout left out."""
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
    """See that a batch is the same whatever batch came before it."""
    batch = examples.around(0, 3, 0, "ordinary")
    first = passes.one(batch)
    earlier: list[Batch] = [examples.around(0, 3, 0, others) for others in ("large", "small")]
    if not all(first.same(passes.one(batch, before=before)) for before in earlier):
        raise ValueError(
            "what the model makes of a batch depends on the batches before it: it keeps something of their examples,"
            " which no noise is added to"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute by one thread inside the block: what several add up may differ by their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
