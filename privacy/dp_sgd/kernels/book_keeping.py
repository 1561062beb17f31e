"""The fast kernel: no gradient of a weight is computed by autograd, nor one per example where a norm suffices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fedsim.privacy.dp_sgd.calls import calls_of
from fedsim.privacy.dp_sgd.kernels import lstm
from fedsim.privacy.dp_sgd.kernels.examplewise import Examplewise, copies_of
from fedsim.privacy.dp_sgd.kernels.layers import layer_parts
from fedsim.privacy.dp_sgd.kernels.param_gradients import BufferPool, Buffers, Part, Rows, clipped_sums, put
from fedsim.privacy.dp_sgd.kernels.structure import check_inside, examplewise_paths, within
from fedsim.privacy.dp_sgd.passes import losses_of
from fedsim.privacy.halves import Losses


class BookKeepingSum:
    """Clipped sums by book-keeping (Bu et al. 2023, arXiv 2210.00038).

    1. Forward, keeping each layer's input. 2. Backward to the layers' outputs only. 3. From input and gradient at the
    output, each layer's squared norms, `(B,)`; their sum over layers gives the examples' clip factors.
    4. From the same two, each layer's sum over examples, each times its factor: one matrix product.

    There is always one pass: the kept tensors of a non-finite example are zeroed. What is no layer of its own, or is
    called otherwise than such a one, is run example by example (`examplewise.py`).
    """

    def __init__(self, model: nn.Module, losses: Losses, clip: float) -> None:
        self._model = model
        self._losses = losses
        self._clip = clip
        self._pool = BufferPool()
        self._watches: list[_Watch] = []
        self._apart: list[Examplewise] = []
        self._copied: list[nn.Parameter] = []  # those of the modules apart
        self._prepared = self._looked = False

    @torch.no_grad()
    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        losses, parts = self.parts(inputs, labels)
        finite, sums = clipped_sums(losses, parts, self._clip)
        put(sums, buffers)
        return losses[finite]

    def prepare(self, inputs: Tensor) -> None:
        """See how the model's modules are called; done by the first batch, unless before."""
        if self._prepared:
            return
        calls = calls_of(self._model, inputs)
        apart = examplewise_paths(self._model, calls)
        modules = dict(self._model.named_modules())
        self._apart = [Examplewise(modules[path], calls[path]) for path in sorted(apart)]  # type: ignore[arg-type]
        self._copied = list(dict.fromkeys(p for path in sorted(apart) for p in modules[path].parameters()))
        watches = [
            (_LstmWatch if isinstance(module, nn.LSTM) else _Watch)(path, module, self._pool)
            for path, module in modules.items()
            if calls[path] and not any(within(path, outer) for outer in apart)
        ]
        self._watches = [watch for watch in watches if watch.trained]
        self._prepared = True

    def parts(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[nn.Parameter, Part]]:
        """Return a batch's losses `(B,)`, and the part of each parameter that a gradient reached.

        Raises:
            ValueError: A parameter is used outside of its layer.
        """
        self.prepare(inputs)
        self._pool.begin()
        with torch.enable_grad(), ExitStack() as stack:
            copies = copies_of(self._copied, len(inputs))
            for module in self._apart:
                stack.enter_context(module.running(copies))
            for watch in self._watches:
                stack.enter_context(watch.watching())
            losses = losses_of(self._model, self._losses, inputs, labels)
            seen = [(watch, watch.edge) for watch in self._watches if watch.edge is not None]
            edges: list[Any] = [edge for _, edge in seen]
            if not self._looked:
                check_inside(self._model, losses, edges)
                self._looked = True
            gradients = torch.autograd.grad(losses.sum(), [*edges, *copies.values()], allow_unused=True)
            found, of_copies = gradients[: len(seen)], gradients[len(seen) :]
            parts: dict[nn.Parameter, Part] = {
                p: Rows(g) for p, g in zip(copies, of_copies, strict=True) if g is not None
            }
            parts |= {
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
        handle = self._module.register_forward_hook(self._saw, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self.edge = self._input = None

    def _saw(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor
    ) -> None:
        self._once()
        if not output.requires_grad:  # as under `no_grad`
            return
        self._input = next(iter([*args, *kwargs.values()])).detach()
        self._version = self._input._version
        # A later in-place operation moves the tensor on in the graph; the edge stays.
        self.edge = get_gradient_edge(output)

    def _once(self) -> None:
        if self.edge is not None:
            raise ValueError(f"{self._name} is called twice in one forward pass, and was once in another")

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

    def _run(self, *args: Tensor, **kwargs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        self._once()
        x, *state = [*args, *kwargs.values()]
        if state or not isinstance(x, Tensor) or x.dim() != 3:
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
