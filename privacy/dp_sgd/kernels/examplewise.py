"""Modules that are run one example at a time, each example with its own copy of the parameters.

Autograd's gradients of these copies are the per-example gradients, of whatever the module computes, and however often
it is called. `torch.func.vmap` runs the examples together; a module that it can't take, as nn.GRU, is run in a loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from fedsim.privacy.dp_sgd.calls import Call
from fedsim.privacy.dp_sgd.kernels.param_gradients import Buffers, Rows, clipped_sums, put
from fedsim.privacy.dp_sgd.passes import losses_of
from fedsim.privacy.halves import Losses

Copies = Mapping[nn.Parameter, Tensor]
_NO_RULE = (RuntimeError, ValueError, TypeError)  # that vmap raises


def copies_of(parameters: Iterable[nn.Parameter], batch: int) -> dict[nn.Parameter, Tensor]:
    """Return a leaf `(B, ...)` for each trainable parameter, which takes no memory."""
    return {p: p.detach().expand(batch, *p.shape).requires_grad_() for p in parameters if p.requires_grad}


class Examplewise:
    """Runs one module, example by example.

    Args:
        module: Its buffers, and tensors that it keeps, are left as they are.
        calls: Its calls in a forward pass, in turn.
        together: Whether to try `vmap`.
    """

    def __init__(self, module: nn.Module, calls: Sequence[Call], *, together: bool = True) -> None:
        self._module = module
        self._calls = calls
        self._together = together
        self._tried = not together

    @contextmanager
    def running(self, copies: Copies) -> Iterator[None]:
        """Run the module so whenever it is called inside the block, with these copies of its parameters."""
        calls = iter(self._calls)

        def run(*args: Any, **kwargs: Any) -> Any:
            if (call := next(calls, None)) is None:
                raise ValueError(f"{type(self._module).__name__} is called more often than in another batch")
            return self(call, copies, args, kwargs)

        with self._calling(run):
            yield

    def __call__(self, call: Call, copies: Copies, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the module's output."""
        with self._calling(None), _same_tensors(self._module):
            return self._run(_Examples(self._module, call, copies, args, kwargs))

    def _run(self, examples: _Examples) -> Any:
        if not self._tried:
            self._tried, state = True, torch.get_rng_state()
            try:
                return examples.together()
            except _NO_RULE:
                self._together = False
                torch.set_rng_state(state)
        return examples.together() if self._together else examples.in_turn()

    @contextmanager
    def _calling(self, run: Callable[..., Any] | None) -> Iterator[None]:
        """Call this in the module's place, hooks included, as what `nn.Module.compile` makes would be."""
        place = vars(self._module)
        before = place.get("_compiled_call_impl")
        place["_compiled_call_impl"] = run
        try:
            yield
        finally:
            del place["_compiled_call_impl"]
            if before is not None:
                place["_compiled_call_impl"] = before


class _Examples:
    """The examples of one call."""

    def __init__(
        self, module: nn.Module, call: Call, copies: Copies, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._module, self._call = module, call
        self._leaves, self._spec = tree_flatten((args, kwargs))
        if len(self._leaves) != len(call.given):
            raise ValueError(f"{type(module).__name__} is called otherwise than in another batch")
        self._own = {name: copies[p] for name, p in module.named_parameters() if p in copies}
        self._places = [place for place, dim in enumerate(call.given) if dim is not None]
        self._dims = [dim for dim in call.given if dim is not None]
        self._made = [dim for dim in call.made if dim is not None]
        self._output: tuple[list[Any], Any] = [], None

    def together(self) -> Any:
        """Return the output by `vmap`."""
        with warnings.catch_warnings(), _RowsOfPadding():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            mapped = vmap(
                self._one, in_dims=(0, *self._dims), out_dims=tuple(self._made), randomness="different"
            )
            return self._joined(mapped(self._own, *(self._leaves[place] for place in self._places)))

    def in_turn(self) -> Any:
        """Return the output by a loop."""
        given = [self._leaves[p].unbind(d) for p, d in zip(self._places, self._dims, strict=True)]
        own = {name: copy.unbind() for name, copy in self._own.items()}
        each = [
            self._one({name: copy[i] for name, copy in own.items()}, *leaves)
            for i, leaves in enumerate(zip(*given, strict=True))
        ]
        return self._joined(
            [torch.stack(t, dim) for t, dim in zip(zip(*each, strict=True), self._made, strict=True)]
        )

    def _one(self, own: dict[str, Tensor], *given: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in one example's output, without the batch's dimension."""
        leaves = list(self._leaves)
        for place, dim, leaf in zip(self._places, self._dims, given, strict=True):
            leaves[place] = leaf.unsqueeze(dim)
        args, kwargs = tree_unflatten(leaves, self._spec)
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        found = functional_call(self._module, {**own, **buffers}, args, kwargs)
        self._output = tree_flatten(found)
        dims = zip(self._output[0], self._call.made, strict=True)
        return tuple(leaf.squeeze(dim) for leaf, dim in dims if dim is not None)

    def _joined(self, tensors: Sequence[Tensor]) -> Any:
        leaves, spec = self._output
        rest = iter(tensors)
        dims = zip(leaves, self._call.made, strict=True)
        return tree_unflatten([leaf if dim is None else next(rest) for leaf, dim in dims], spec)


class _RowsOfPadding(TorchFunctionMode):
    """Lets no gradient reach the row of `padding_idx`: vmap's rule for embeddings forgets it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.embedding and (padding := kwargs.pop("padding_idx", None)) is not None:
            tokens, weight, *rest = args
            chosen = torch.arange(len(weight)) == padding % len(weight)
            args = (tokens, torch.where(chosen.unsqueeze(1), weight.detach(), weight), *rest)
        return func(*args, **kwargs)


@contextmanager
def _same_tensors(module: nn.Module) -> Iterator[None]:
    """Restore the tensors that modules keep as attributes, as the weight that weight norm makes."""
    before = [(vars(inner), dict(vars(inner))) for inner in module.modules()]
    try:
        yield
    finally:
        for now, then in before:
            for name in [name for name, value in now.items() if isinstance(value, Tensor)]:
                if name in then:
                    now[name] = then[name]
                else:
                    del now[name]


class _WithLosses(nn.Module):
    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model = model
        self._losses = (losses,)  # no submodule: its parameters are not the model's

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return losses_of(self.model, self._losses[0], inputs, labels)


class ExamplewiseSum:
    """Clipped sums of a model that is run example by example as a whole.

    Args:
        model: Any in which examples don't meet.
        losses: `(outputs, labels) -> (B,)`.
        clip: The clip norm.
        together: Whether by `vmap`, else in a loop.
    """

    def __init__(self, model: nn.Module, losses: Losses, clip: float, *, together: bool) -> None:
        self._model = model
        self._clip = clip
        self._call = Call((0, 0), (0,))
        self._each = Examplewise(_WithLosses(model, losses), [self._call], together=together)

    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        with torch.enable_grad():
            copies = copies_of(self._model.parameters(), len(inputs))
            losses: Tensor = self._each(self._call, copies, (inputs, labels), {})
            found = torch.autograd.grad(losses.sum(), list(copies.values()), allow_unused=True)
        rows = {p: Rows(g) for p, g in zip(copies, found, strict=True) if g is not None}
        with torch.no_grad():
            losses = losses.detach()
            finite, sums = clipped_sums(losses, rows, self._clip)
            put(sums, buffers)
            return losses[finite]
