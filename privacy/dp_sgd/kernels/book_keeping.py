"""The fast kernel: no gradient of a weight is computed by autograd, nor one per example where a norm suffices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fedsim.privacy.dp_sgd.kernels import lstm
from fedsim.privacy.dp_sgd.kernels.buffer_pool import BufferPool
from fedsim.privacy.dp_sgd.kernels.layers import layer_parts
from fedsim.privacy.dp_sgd.kernels.param_gradients import Part, Weighted, only
from fedsim.privacy.dp_sgd.rounding import clip_factors

Buffers = Mapping[nn.Parameter, Tensor]


class BookKeepingSum:
    """Clipped sums by book-keeping (Bu et al. 2023, arXiv 2210.00038).

    1. Forward, keeping each layer's input. 2. Backward to the layers' outputs only. 3. From input and gradient at the
    output, each layer's squared norms, `(B,)`; their sum over layers gives the examples' clip factors.
    4. From the same two, each layer's sum over examples, each times its factor: one matrix product.

    There is always one pass: the kept tensors of a non-finite example are zeroed.
    """

    def __init__(self, model: nn.Module, losses: Callable[[Tensor, Tensor], Tensor], clip: float) -> None:
        self._model = model
        self._losses = losses
        self._clip = clip
        self._pool = BufferPool()
        self._watches: list[_Watch] = []
        for path, module in model.named_modules():
            if own := {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad}:
                kind = _LstmWatch if isinstance(module, nn.LSTM) else _Watch
                self._watches.append(kind(path, module, own, self._pool))

    @torch.no_grad()
    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        losses, squares, parts = self.norms(inputs, labels)
        finite = losses.isfinite() & squares.isfinite()
        if not finite.all():
            squares = keep_finite(finite, squares, parts)
        self.put(self.sums(parts, squares), buffers)
        return losses[finite]

    def norms(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, list[dict[str, Part]]]:
        """Return the losses `(B,)`, the squared norms `(B,)`, and the parts of each module."""
        losses, parts = self._backward(inputs, labels)
        return losses, torch.stack([part.squares() for own in parts for part in own.values()]).sum(0), parts

    def sums(
        self, parts: Sequence[Mapping[str, Part]], squares: Tensor, chosen: Tensor | None = None
    ) -> list[dict[str, Weighted]]:
        """Return the sums over examples, each times its clip factor; of the `chosen` alone, booleans `(B,)`."""
        factors = clip_factors(squares, self._clip, self._watches[0].dtype)
        if chosen is not None:
            factors = only(chosen, factors)
        return [{name: part.weighted(factors) for name, part in own.items()} for own in parts]

    def put(self, sums: Sequence[Mapping[str, Weighted]], buffers: Buffers) -> None:
        """Put the sums into the buffers; a parameter without a sum has zero."""
        for watch, own in zip(self._watches, sums, strict=True):
            for name, parameter in watch.trained.items():
                if name in own:
                    own[name].put_into(buffers[parameter])
                else:
                    buffers[parameter].zero_()

    def _backward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, list[dict[str, Part]]]:
        """Return the losses `(B,)`, and each watch's parts, empty without a gradient."""
        self._pool.begin()
        with torch.enable_grad(), _watching(self._watches):
            losses = self._losses(self._model(inputs), labels)
            if losses.shape != (len(inputs),):
                raise ValueError(f"losses of shape {tuple(losses.shape)} for {len(inputs)} examples")
            seen = [(watch, watch.edge) for watch in self._watches if watch.edge is not None]
            found = torch.autograd.grad(losses.sum(), [edge for _, edge in seen], allow_unused=True)
            gradients = {watch: gradient for (watch, _), gradient in zip(seen, found, strict=True)}
            parts = [dict(watch.parts(gradients.get(watch), len(inputs))) for watch in self._watches]
        return losses.detach(), parts


class _Watch:
    """Records one module in a forward pass.

    Attributes:
        trained: The module's own trainable parameters, by name.
        edge: The module's output in autograd's graph; None before the forward pass.
    """

    def __init__(
        self, path: str, module: nn.Module, trained: dict[str, nn.Parameter], pool: BufferPool
    ) -> None:
        self.trained = trained
        self._pool = pool
        self.edge: GradientEdge | None = None
        self._name = f"{path or 'the model'} ({type(module).__name__})"
        self._module = module
        self._input: Tensor | None = None
        self._version = 0

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(iter(self.trained.values())).dtype

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the module's forward pass inside the block, and discard the record at its end."""
        handle = self._module.register_forward_hook(self._saw)
        try:
            yield
        finally:
            handle.remove()
            self.edge = self._input = None

    def _saw(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        self._once()
        self._input = arguments[0].detach()
        self._version = self._input._version
        # A later in-place operation moves the tensor on in the graph; the edge stays.
        self.edge = get_gradient_edge(output)

    def _once(self) -> None:
        if self.edge is not None:
            raise ValueError(
                f"{self._name} is called twice in one forward pass: give each call a layer of its own,"
                " or use kernel = 'opacus'"
            )

    def parts(self, gradient: Tensor | None, batch: int) -> Iterator[tuple[str, Part]]:
        """Yield the module's named parts, if a gradient reached its output."""
        if self._input is None or gradient is None:
            return
        if not len(gradient) == len(self._input) == batch:
            raise ValueError(f"{self._name}: its input and output must begin with the batch")
        if self._input._version != self._version:
            raise ValueError(f"{self._name}: its input is changed in place after it")
        yield from layer_parts(self._module, self.trained, self._input, gradient, self._pool)


class _LstmWatch(_Watch):
    """Runs an nn.LSTM in a forward pass, keeping what its per-example gradients need."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the module's forward pass inside the block, and discard its record at its end."""
        self._layers: list[lstm.LstmLayer] = []
        self._module.forward = self._run
        try:
            yield
        finally:
            del self._module.forward
            self.edge = None
            self._layers = []

    def _run(self, x: Tensor, state: object = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        self._once()
        if state is not None or not isinstance(x, Tensor) or x.dim() != 3:
            raise ValueError(
                f"{self._name}: must be given a batch of equally long sequences and no first state"
            )
        anchor = torch.zeros((), requires_grad=True)
        self.edge = get_gradient_edge(anchor)
        return lstm.run(cast(nn.LSTM, self._module), anchor, x, self._layers, self._pool)

    def parts(self, gradient: Tensor | None, batch: int) -> Iterator[tuple[str, Part]]:
        """Yield the named parts of all layers, if a gradient reached the output."""
        for layer in self._layers if gradient is not None else []:
            if len(layer.states) != batch:
                raise ValueError(f"{self._name}: its batch is not the batch; see batch_first")
            yield from layer.parts(self.trained)


def keep_finite(finite: Tensor, squares: Tensor, parts: Sequence[Mapping[str, Part]]) -> Tensor:
    """Zero the gradients of examples that are not `finite`, and return the new squared norms; all `(B,)`."""
    for own in parts:
        for part in own.values():
            part.keep(finite)
    return only(finite, squares)


@contextmanager
def _watching(watches: Sequence[_Watch]) -> Iterator[None]:
    with ExitStack() as stack:
        for watch in watches:
            stack.enter_context(watch.watching())
        yield
