"""Per-example gradients by Opacus itself: slow, well tried, and what the other kernels are compared with."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn


class OpacusSum:
    """Clipped sums by Opacus' GradSampleModule (hooks) and DPOptimizer, with the user's public values.

    Opacus' hooks sit on a second tree of modules that shares the model's parameters, so that the model keeps
    its own modules and names; there an nn.LSTM is a DPLSTM, whose cells hold the same parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Callable[[Tensor, Tensor], Tensor],
        clip: float,
        buffers: dict[nn.Parameter, Tensor],
    ) -> None:
        self._model = model
        self._losses = losses
        self._module = GradSampleModule(_twin(model), loss_reduction="sum")
        self._optimizer = _NanSafe(
            torch.optim.SGD(list(buffers)),
            noise_multiplier=0.0,  # its add_noise is ours
            max_grad_norm=clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._buffers = buffers
        # Opacus trains the row that nn.Embedding's padding_idx keeps out of training.
        self._padded = [
            module
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            and module.padding_idx is not None
            and module.weight in buffers
        ]

    def __call__(self, inputs: Tensor, labels: Tensor, *, scale: float, keep: float) -> Tensor:
        """Add a batch's clipped sum to the buffers: see `gradient.ClippedSum`."""
        self._module.train(self._model.training)
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._losses(self._module(inputs), labels)
        with warnings.catch_warnings():
            # The first layer's input needs no gradient; Opacus wants only the output's.
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        for table in self._padded:
            table.weight.grad_sample[:, table.padding_idx] = 0.0  # type: ignore[attr-defined]
        self._optimizer.finite = losses.detach().isfinite()
        self._optimizer.clip_and_accumulate()
        for parameter, buffer in self._buffers.items():
            buffer.mul_(keep).add_(parameter.summed_grad, alpha=scale)  # type: ignore[attr-defined]
        self._optimizer.zero_grad(set_to_none=True)
        return losses.detach()[self._optimizer.finite]


class _NanSafe(DPOptimizer):  # type: ignore[misc]
    """A DPOptimizer to which an example with NaN or infinity contributes zero; Opacus lets it ruin the sum.

    Attributes:
        finite: `(B,)` booleans; in: whose loss is finite, out: whose gradient is too.
    """

    finite: Tensor

    def clip_and_accumulate(self) -> None:
        """Clip and sum, and once more without the examples that are not finite if there are any."""
        super().clip_and_accumulate()
        if self.finite.all() and all(bool(p.summed_grad.isfinite().all()) for p in self.params):
            return
        gradients = self.grad_samples
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        self.finite = self.finite & norms.isfinite()
        for parameter, gradient in zip(self.params, gradients, strict=True):
            rows = self.finite.view(-1, *[1] * parameter.dim())
            parameter.grad_sample = torch.where(rows, gradient, 0.0)
            parameter.summed_grad = None
        super().clip_and_accumulate()


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy of the modules that has the model's very parameters and buffers, and DPLSTM for nn.LSTM."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, shared)
    if isinstance(twin, nn.LSTM):
        return _dplstm(twin)
    for path, module in list(twin.named_modules()):
        if isinstance(module, nn.LSTM):
            parent, _, name = path.rpartition(".")
            setattr(twin.get_submodule(parent), name, _dplstm(module))
        elif isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_in_default_order)
    return twin


def _in_default_order(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a convolution its images in the default memory format.

    Opacus 1.6 unfolds them by strides that it works out for that format: in `channels_last` its per-example
    gradients are others, without a word.
    """
    return (arguments[0].contiguous(), *arguments[1:])


def _dplstm(lstm: nn.LSTM) -> nn.Module:
    """Return a DPLSTM whose cells hold an nn.LSTM's parameters."""
    with torch.device("meta"):  # its own weights are not drawn, and so no generator is moved
        made = DPLSTM(
            lstm.input_size,
            lstm.hidden_size,
            num_layers=lstm.num_layers,
            bias=lstm.bias,
            batch_first=lstm.batch_first,
        )
    for layer, cell in enumerate(made.cells):
        for part in ("ih", "hh"):
            linear = getattr(cell, part)
            linear.weight = getattr(lstm, f"weight_{part}_l{layer}")
            if lstm.bias:
                linear.bias = getattr(lstm, f"bias_{part}_l{layer}")
    made.train(lstm.training)
    return made  # type: ignore[no-any-return]
