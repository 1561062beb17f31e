"""How a forward pass calls each module of a model, and which dimension of what it gets and makes is the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

SIZES = (2, 3)  # of the batches of which shapes are compared

Shapes = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Call:
    """A call of a module in a forward pass.

    Attributes:
        given: The batch's dimension in each leaf of its arguments; None: it has none, as a mask for all examples.
        made: The same for each leaf of its output.
    """

    given: tuple[int | None, ...]
    made: tuple[int | None, ...]


Calls = Mapping[str, Sequence[Call | None]]


def calls_of(model: nn.Module, inputs: Tensor) -> Calls:
    """Return each module's calls in a forward pass, by its path; None for one whose batch's dimensions can't be told.

    They are those that differ between a batch of two examples and one of three. A copy of the model is run.
    """
    seen: list[dict[str, list[tuple[Shapes, Shapes]]]] = []
    for size in SIZES:
        twin = copied(model, {id(p): p for p in model.parameters()})
        found: dict[str, list[tuple[Shapes, Shapes]]] = {}
        for path, module in twin.named_modules():
            module.register_forward_hook(_noting(found.setdefault(path, [])), with_kwargs=True)
        with drawing(0), torch.enable_grad():
            twin(inputs[:1].expand(size, *inputs.shape[1:]).clone())
        seen.append(found)
    few, many = seen
    return {
        path: [_call(*both) for both in zip(few[path], many[path], strict=True)]
        if len(few[path]) == len(many[path])
        else [None]
        for path in few
    }


def _noting(calls: list[tuple[Shapes, Shapes]]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((_shapes((args, kwargs)), _shapes(output)))

    return hook


def _shapes(tree: Any) -> Shapes:
    return tuple(tuple(leaf.shape) if isinstance(leaf, Tensor) else None for leaf in tree_leaves(tree))


def _call(few: tuple[Shapes, Shapes], many: tuple[Shapes, Shapes]) -> Call | None:
    try:
        given, made = (
            tuple(_dim(a, b) for a, b in zip(first, second, strict=True))
            for first, second in zip(few, many, strict=True)
        )
    except ValueError:
        return None
    return Call(given, made)


def _dim(few: tuple[int, ...] | None, many: tuple[int, ...] | None) -> int | None:
    """Return the dimension of the batch; raises `ValueError` if it can't be told."""
    if few is None or many is None or few == many:
        return None
    differ = [i for i, sizes in enumerate(zip(few, many, strict=True)) if sizes[0] != sizes[1]]
    if len(differ) != 1 or (few[differ[0]], many[differ[0]]) != SIZES:
        raise ValueError("no such dimension")
    return differ[0]


def copied(model: nn.Module, shared: Mapping[int, Any] | None = None) -> nn.Module:
    """Return a copy of a model, but for shared objects, by their id.

    A tensor that a module has computed and keeps, as the weight of `torch.nn.utils.weight_norm`, is a constant there.
    """
    kept = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in kept} | dict(shared or {}))


@contextmanager
def drawing(seed: int) -> Iterator[Callable[[], bool]]:
    """Seed PyTorch's default generator inside the block, and restore its state; yields whether it was used, after it."""
    before = torch.default_generator.get_state()
    first = last = torch.Generator().manual_seed(seed).get_state()
    torch.default_generator.set_state(first)
    try:
        yield lambda: not torch.equal(first, last)
    finally:
        last = torch.default_generator.get_state()
        torch.default_generator.set_state(before)
