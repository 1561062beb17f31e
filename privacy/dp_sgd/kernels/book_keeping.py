"""The fast kernel: no gradient of a weight is computed by autograd, nor one per example where a norm suffices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fedsim.privacy.dp_sgd.kernels import lstm
from fedsim.privacy.dp_sgd.kernels.layers import layer_parts
from fedsim.privacy.dp_sgd.kernels.param_gradients import BufferPool, Buffers, Part, clipped_sums, put
from fedsim.privacy.dp_sgd.passes import losses_of
from fedsim.privacy.halves import Losses


class BookKeepingSum:
    """Clipped sums by book-keeping (Bu et al. 2023, arXiv 2210.00038).

    1. Forward, keeping each layer's input. 2. Backward to the layers' outputs only. 3. From input and gradient at the
    output, each layer's squared norms, `(B,)`; their sum over layers gives the examples' clip factors.
    4. From the same two, each layer's sum over examples, each times its factor: one matrix product.

    There is always one pass: the kept tensors of a non-finite example are zeroed.
    """

    def __init__(self, model: nn.Module, losses: Losses, clip: float) -> None:
        self._model = model
        self._losses = losses
        self._clip = clip
        self._pool = BufferPool()
        watches = [
            (_LstmWatch if isinstance(module, nn.LSTM) else _Watch)(path, module, self._pool)
            for path, module in model.named_modules()
        ]
        self._watches = [watch for watch in watches if watch.trained]

    @torch.no_grad()
    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        losses, parts = self.parts(inputs, labels)
        finite, sums = clipped_sums(losses, parts, self._clip)
        put(sums, buffers)
        return losses[finite]

    def parts(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[nn.Parameter, Part]]:
        """Return a batch's losses `(B,)`, and the part of each parameter that a gradient reached."""
        self._pool.begin()
        with torch.enable_grad(), ExitStack() as stack:
            for watch in self._watches:
                stack.enter_context(watch.watching())
            losses = losses_of(self._model, self._losses, inputs, labels)
            seen = [(watch, watch.edge) for watch in self._watches if watch.edge is not None]
            found = torch.autograd.grad(losses.sum(), [edge for _, edge in seen], allow_unused=True)
            parts = {
                watch.trained[name]: part
                for (watch, _), gradient in zip(seen, found, strict=True)
                if gradient is not None
                for name, part in watch.parts(gradient, len(inputs))
            }
        return losses.detach(), parts


class _Watch:
    """Records one module in a forward pass.

    Attributes:
        trained: The module's own trainable parameters, by name.
        edge: The module's output in autograd's graph; None before the forward pass.
    """

    def __init__(self, path: str, module: nn.Module, pool: BufferPool) -> None:
        named = module.named_parameters(recurse=False)
        self.trained = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.edge: GradientEdge | None = None
        self._name = f"{path or 'the model'} ({type(module).__name__})"
        self._module = module
        self._pool = pool
        self._input: Tensor | None = None
        self._version = 0

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

    def parts(self, gradient: Tensor, batch: int) -> Iterator[tuple[str, Part]]:
        """Yield the module's named parts, from the gradient at its output."""
        if self._input is None:
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

    def parts(self, gradient: Tensor, batch: int) -> Iterator[tuple[str, Part]]:
        """Yield the named parts of all layers."""
        for layer in self._layers:
            if len(layer.states) != batch:
                raise ValueError(f"{self._name}: its batch is not the batch; see batch_first")
            yield from layer.parts(self.trained)
