"""Per-example gradients by Opacus itself: slow, well tested, and the reference for the other kernels."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPLSTM
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.kernels.param_gradients import Buffers, Rows, clipped_sums, put
from fedsim.privacy.dp_sgd.passes import losses_of
from fedsim.privacy.halves import Losses


class OpacusSum:
    """Clipped sums of the per-example gradients of Opacus' GradSampleModule (hooks).

    Opacus' hooks are on a second tree of modules that shares the model's parameters, so that the model keeps its own
    modules and names. In that tree a DPLSTM with the same parameters replaces an nn.LSTM. Norms, factors and sums
    follow `rounding.py`: float32 sums of Opacus' DPOptimizer have no error bound, and one non-finite example ruins
    them.
    """

    def __init__(self, model: nn.Module, losses: Losses, clip: float) -> None:
        self._model = model
        self._losses = losses
        self._clip = clip
        self._module = GradSampleModule(_twin(model), loss_reduction="sum")
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # Opacus trains the row that nn.Embedding's padding_idx excludes.
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.requires_grad]
        self._padded = [table for table in tables if table.padding_idx is not None]

    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        self._module.train(self._model.training)
        for parameter in self._parameters:
            parameter.grad = None
        losses = losses_of(self._module, self._losses, inputs, labels)
        with warnings.catch_warnings():
            # The first layer's input needs no gradient; Opacus wants only the output's.
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        for table in self._padded:
            table.weight.grad_sample[:, table.padding_idx] = 0.0  # type: ignore[attr-defined]
        found = {p: gradients for p in self._parameters if (gradients := _taken(p)) is not None}
        if any(len(gradients) != len(losses) for gradients in found.values()):
            raise ValueError("a layer's input and output must begin with the batch")
        with torch.no_grad():
            losses = losses.detach()
            rows = {p: Rows(gradients) for p, gradients in found.items()}
            finite, sums = clipped_sums(losses, rows, self._clip)
            put(sums, buffers)
            return losses[finite]


def _taken(parameter: nn.Parameter) -> Tensor | None:
    """Remove Opacus' per-example gradients, `(B, ...)`, from a parameter and return them, or None."""
    found: Tensor | None = getattr(parameter, "grad_sample", None)
    parameter.grad_sample = None  # type: ignore[attr-defined]
    parameter.grad = None
    return None if found is None else found.detach()


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy of the modules with the model's own parameters and buffers, and DPLSTM for nn.LSTM."""
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

    Opacus 1.6 unfolds them by strides for that format: in `channels_last` its per-example gradients are silently
    wrong.
    """
    return (arguments[0].contiguous(), *arguments[1:])


def _dplstm(lstm: nn.LSTM) -> nn.Module:
    """Return a DPLSTM with an nn.LSTM's parameters."""
    with torch.device("meta"):  # draws no weights, so no generator advances
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
