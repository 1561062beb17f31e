"""Per-example gradients by Opacus itself: slow, well tested, and the reference for the other kernels."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPGRU, DPLSTM, DPRNN
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.calls import copied
from fedsim.privacy.dp_sgd.kernels.param_gradients import Buffers, Rows, clipped_sums, put
from fedsim.privacy.dp_sgd.kernels.structure import check_inside, outputs_of_layers
from fedsim.privacy.dp_sgd.passes import losses_of
from fedsim.privacy.halves import Losses


class OpacusSum:
    """Clipped sums of the per-example gradients of Opacus' GradSampleModule (hooks).

    Opacus' hooks are on a second tree of modules that shares the model's parameters, so that the model keeps its own
    modules and names. In that tree Opacus' DPLSTM, DPGRU or DPRNN with the same parameters replaces PyTorch's layer. Norms, factors and sums
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
        self._looked = False

    def __call__(self, inputs: Tensor, labels: Tensor, buffers: Buffers) -> Tensor:
        """Put a batch's clipped sum into the buffers. As `gradient.ClippedSum` says."""
        self._module.train(self._model.training)
        for parameter in self._parameters:
            parameter.grad = None
        if self._looked:
            losses = losses_of(self._module, self._losses, inputs, labels)
        else:
            with outputs_of_layers(self._module) as edges:
                losses = losses_of(self._module, self._losses, inputs, labels)
            check_inside(self._model, losses, edges)
            self._looked = True
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
    """Return a copy of the modules with the model's own parameters and buffers, and Opacus' recurrent layers."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    twin = copied(model, shared)
    if type(twin) in _RECURRENT:
        return _recurrent(twin)
    for path, module in list(twin.named_modules()):
        if type(module) in _RECURRENT:
            parent, _, name = path.rpartition(".")
            setattr(twin.get_submodule(parent), name, _recurrent(module))
        elif isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_in_default_order)
    return twin


def _in_default_order(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a convolution its images in the default memory format.

    Opacus 1.6 unfolds them by strides for that format: in `channels_last` its per-example gradients are silently
    wrong.
    """
    return (arguments[0].contiguous(), *arguments[1:])


_RECURRENT: dict[type[nn.Module], Any] = {nn.LSTM: DPLSTM, nn.GRU: DPGRU, nn.RNN: DPRNN}


def _recurrent(layer: Any) -> nn.Module:
    """Return Opacus' layer with the parameters of PyTorch's."""
    if layer.proj_size:
        raise ValueError(f"Opacus has no {type(layer).__name__} with proj_size")
    kind = {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNN) else {}
    with torch.device("meta"):  # draws no weights, so no generator advances
        made = _RECURRENT[type(layer)](
            layer.input_size,
            layer.hidden_size,
            num_layers=layer.num_layers,
            bias=layer.bias,
            batch_first=layer.batch_first,
            dropout=layer.dropout,
            bidirectional=layer.bidirectional,
            **kind,
        )
    endings = [
        f"l{i}{end}" for i in range(layer.num_layers) for end in ("", "_reverse")[: 1 + layer.bidirectional]
    ]
    for ending, cell in zip(endings, made.cells, strict=True):
        for part in ("ih", "hh"):
            linear = getattr(cell, part)
            linear.weight = getattr(layer, f"weight_{part}_{ending}")
            if layer.bias:
                linear.bias = getattr(layer, f"bias_{part}_{ending}")
    made.train(layer.training)
    return made  # type: ignore[no-any-return]
