"""Passes over a copy of a model, each from the same state and with the same random numbers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from fedsim.privacy.dp_sgd.calls import Calls, calls_of, copied, drawing
from fedsim.privacy.halves import Losses

Batch = tuple[Tensor, Tensor]
_NAMES = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
_BUILT_IN = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
DROPOUTS: frozenset[Any] = frozenset(
    [getattr(F, name) for name in _NAMES]
    + [getattr(torch, name + ending) for name in _BUILT_IN for ending in ("", "_")]
)

# What a function of Python's calls inside is not seen by the mode: each has its own place.
ATTENTION: dict[Any, int] = {F.scaled_dot_product_attention: 4, F.multi_head_attention_forward: 10}

RECURRENT: frozenset[Any] = frozenset(
    getattr(torch, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
)


@dataclass(frozen=True)
class Pass:
    """Result of a forward and backward pass for one example of a batch, the target.

    Attributes:
        loss: The target's, `()`.
        gradient: Gradient of that loss, for each trainable parameter in turn.
        finite: Whether all of the gradient is finite.
        crosses: Whether that loss has a gradient at another example, in the inputs or after a layer.
        drew: Whether PyTorch's default generator was used.
        dropped: Name and probability of each skipped dropout call.
    """

    loss: Tensor
    gradient: tuple[Tensor, ...]
    finite: bool
    crosses: bool
    drew: bool
    dropped: tuple[tuple[str, str], ...]

    def same(self, other: Pass) -> bool:
        """Return whether loss and gradient have the same bits; gradients are compared if both are finite."""
        if not (torch.equal(self.loss, other.loss) or bool(self.loss.isnan() & other.loss.isnan())):
            return False
        return not (self.finite and other.finite) or all(map(torch.equal, self.gradient, other.gradient))

    def close(self, other: Pass, tolerance: float) -> bool:
        """Return whether losses and gradients differ by at most `tolerance`, relative to themselves (or to 1e-3)."""
        pairs = (((self.loss,), (other.loss,)), (self.gradient, other.gradient))
        return all(_close(first, second, tolerance) for first, second in pairs)


def losses_of(model: nn.Module, losses: Losses, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return a batch's losses, `(B,)`; raises `ValueError` if they have another shape."""
    found = losses(model(inputs), labels)
    if found.shape != (len(inputs),):
        raise ValueError(f"losses of shape {tuple(found.shape)} for {len(inputs)} examples")
    return found


def norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm of tensors, all together."""
    return float(torch.stack([t.norm().double() for t in tensors]).norm())


def _close(first: tuple[Tensor, ...], second: tuple[Tensor, ...], tolerance: float) -> bool:
    away = norm(a - b for a, b in zip(first, second, strict=True))
    return away <= tolerance * max(norm(first), norm(second), 1e-3)


class Passes:
    """Runs passes on a copy of a model, never on the model itself.

    Args:
        model: In the modes (training or evaluation) in which it is trained.
        losses: `(outputs, labels) -> (B,)`; copied too if it is an nn.Module.
        dtype: Floating-point dtype of the copy and of batches; None: unchanged.

    Raises:
        ValueError: The model can't be copied.
    """

    def __init__(self, model: nn.Module, losses: Losses, dtype: torch.dtype | None = None) -> None:
        try:
            self.model = copied(model)
            self._losses = copy.deepcopy(losses) if isinstance(losses, nn.Module) else losses
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the model can't be copied, which the check that its examples don't meet needs: {error}"
            ) from error
        if dtype is not None:
            self.model.to(dtype)
            if isinstance(self._losses, nn.Module):
                self._losses.to(dtype)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self._dtype = dtype
        self._inputs_too = True
        self._calls: Calls | None = None

    def of(self, batch: Batch) -> Batch:
        """Return a batch in this copy's dtype."""
        if self._dtype is None:
            return batch
        inputs, labels = (t.to(self._dtype) if t.is_floating_point() else t for t in batch)
        return inputs, labels

    def losses(self, batch: Batch) -> Tensor:
        """Return a batch's losses, `(B,)`."""
        with torch.no_grad(), self.quiet():
            return self._forward(self.fresh(), self.fresh_losses(), self.of(batch))

    def one(
        self,
        batch: Batch,
        target: int = 0,
        *,
        seed: int = 0,
        dropout: bool = False,
        before: Batch | None = None,
    ) -> Pass:
        """Run a pass.

        Args:
            batch: `(B, ...)` and `(B, ...)`.
            target: The example of the result.
            seed: Seed of the pass's random numbers.
            dropout: Whether dropout is applied; if not, the rest stays in training mode.
            before: A batch to pass through the model first.
        """
        if self._inputs_too and batch[0].is_floating_point():
            try:
                return self._one(batch, target, seed, dropout, before, inputs_too=True)
            except (RuntimeError, TypeError):  # as for a model that makes a NumPy array of its inputs
                self._inputs_too = False
        return self._one(batch, target, seed, dropout, before, inputs_too=False)

    def _one(
        self, batch: Batch, target: int, seed: int, dropout: bool, before: Batch | None, *, inputs_too: bool
    ) -> Pass:
        (inputs, labels), model, losses_by = self.of(batch), self.fresh(), self.fresh_losses()
        edges: list[tuple[GradientEdge, int]] = []
        if self._calls is None:
            self._calls = calls_of(self.model, inputs)
        with drawing(seed), nullcontext() if dropout else _WithoutDropout() as without, torch.enable_grad():
            if before is not None:
                self._forward(model, losses_by, self.of(before))
            for path, layer in model.named_modules():
                if next(layer.parameters(recurse=False), None) is not None:
                    dims = [
                        call.made[0] if call and len(call.made) == 1 else None for call in self._calls[path]
                    ]
                    layer.register_forward_hook(_remember(edges, dims))
            leaf = inputs.detach().clone().requires_grad_(inputs_too)
            if without is not None:
                without.dropped.clear()
            with drawing(seed) as drew:  # the same, whatever an earlier batch drew
                losses = self._forward(model, losses_by, (leaf, labels))
            places = [*([0] if inputs_too else []), *(dim for _, dim in edges)]
            sources: list[Any] = [
                *self.trained,
                *([leaf] if inputs_too else []),
                *(edge for edge, _ in edges),
            ]
            found = torch.autograd.grad(losses[target], sources, allow_unused=True)
        of_parameters = zip(self.trained, found, strict=False)
        gradient = tuple(torch.zeros_like(p) if g is None else g for p, g in of_parameters)
        return Pass(
            loss=losses[target].detach(),
            gradient=gradient,
            finite=all(bool(g.isfinite().all()) for g in gradient),
            crosses=any(
                _elsewhere(g, target, dim)
                for g, dim in zip(found[len(self.trained) :], places, strict=True)
                if g is not None
            ),
            drew=drew(),
            dropped=() if without is None else tuple(without.dropped),
        )

    def fresh(self) -> nn.Module:
        """Return a fresh copy that shares the parameters, with its own modules and buffers."""
        return copied(self.model, {id(p): p for p in self.model.parameters()})

    def fresh_losses(self) -> Losses:
        """Return a fresh copy of the losses."""
        return copy.deepcopy(self._losses) if isinstance(self._losses, nn.Module) else self._losses

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Skip dropout inside the block, and seed all other random numbers."""
        with drawing(0), _WithoutDropout():
            yield

    def _forward(self, model: nn.Module, losses: Losses, batch: Batch) -> Tensor:
        return losses_of(model, losses, *(tensor.clone() for tensor in batch))


class _WithoutDropout(TorchFunctionMode):
    """Skips nn.Dropout and its variants, that within attention and that between recurrent layers.

    Attributes:
        dropped: Name and probability of each skipped call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[tuple[str, str]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in DROPOUTS:
            p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            self.dropped.append((func.__name__, repr(float(p))))
            return args[0] if args else kwargs["input"]
        if func in ATTENTION:
            place = ATTENTION[func]
            p = args[place] if len(args) > place else kwargs.pop("dropout_p", 0.0)
            self.dropped.append((func.__name__, repr(float(p))))
            args = (*args[:place], 0.0, *args[place + 1 :]) if len(args) > place else args
        if func in RECURRENT:
            place = next(i for i, argument in enumerate(args) if isinstance(argument, list)) + 3
            self.dropped.append((func.__name__, repr(float(args[place]))))
            args = (*args[:place], 0.0, *args[place + 1 :])
        return func(*args, **kwargs)


def _remember(edges: list[tuple[GradientEdge, int]], dims: Sequence[int | None]) -> Callable[..., None]:
    """Return a hook that keeps the graph edge of a layer's output and its batch's dimension, of each call in turn."""
    calls = itertools.cycle(dims)  # an earlier batch has the same

    def hook(layer: nn.Module, arguments: Any, output: Any) -> None:
        dim = next(calls, None)
        if isinstance(output, Tensor) and output.requires_grad and dim is not None:
            # Not the tensor: a later in-place operation moves it on in the graph.
            edges.append((get_gradient_edge(output), dim))

    return hook


def _elsewhere(gradient: Tensor, target: int, dim: int) -> bool:
    others = (torch.arange(gradient.shape[dim]) != target).nonzero()[:, 0]
    return bool(gradient.index_select(dim, others).count_nonzero())
