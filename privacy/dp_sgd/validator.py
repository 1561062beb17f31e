"""Checks that a model has per-example gradients, and keeps nothing of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.privacy.dp_sgd.passes import Passes, drawing

OWN = (nn.Linear, nn.Conv2d, nn.Embedding, nn.GroupNorm, nn.LayerNorm, nn.LSTM)
"""The fast kernel's layers; exactly these types, since a subclass may compute something else."""


def check_model(model: nn.Module) -> None:
    """Refuse a model that DP-SGD can't train: one that mixes examples, or that no kernel supports.

    All modules are checked, also those without parameters: batch norm mixes examples with or without an affine map.
    What `forward` does with tensors is checked on first use (`independence.check_independent`).

    Opacus' `register_grad_sampler` adds support for other layers.

    Raises:
        ValueError: Names the first such module by its path and class, the reason, and what to do instead.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the model has no parameters to train")
    owners: dict[nn.Parameter, str] = {}
    for path, module in model.named_modules():
        if reason := _mixes_examples(module) or _unsupported(module):
            raise ValueError(f"{path or 'the model'} ({type(module).__name__}): {reason}")
        for name, parameter in module.named_parameters(path, recurse=False):
            if (first := owners.setdefault(parameter, name)) != name:
                raise ValueError(
                    f"{name} and {first} are one parameter: its gradient would be counted in two layers;"
                    " give each layer its own"
                )


def _mixes_examples(module: nn.Module) -> str | None:
    if isinstance(module, _BatchNorm):
        return "batch norm mixes the examples of a batch, with or without an affine map; use nn.GroupNorm"
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return "its running statistics mix examples, and are released without noise; set track_running_stats=False"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        if module.scale_grad_by_freq:
            return "scale_grad_by_freq divides by counts over the batch; set it to False"
        if module.max_norm is not None:
            return "max_norm changes weights outside of the noised step; set it to None"
        if module.sparse:
            return "noise is dense, so the gradient can't be sparse; set sparse=False"
    return None


def _unsupported(module: nn.Module) -> str | None:
    if isinstance(module, nn.LSTM):
        unsupported = {
            "bidirectional": module.bidirectional,
            "proj_size": module.proj_size > 0,
            "dropout": module.dropout > 0 and module.num_layers > 1,
        }
        return next(
            (f"nn.LSTM is supported without {name}" for name, is_set in unsupported.items() if is_set), None
        )
    if isinstance(module, nn.RNNBase):
        return "of the recurrent layers only nn.LSTM is supported"
    if isinstance(module, _ConvNd) and module.padding_mode != "zeros":
        return "only padding_mode='zeros' is supported"
    trained = any(p.requires_grad for p in module.parameters(recurse=False))
    if not trained or (type(module) in OWN) or opacus_knows(type(module)):
        return None
    names = ", ".join(f"nn.{kind.__name__}" for kind in OWN)
    return (
        f"no kernel has its per-example gradients; use {names}, another layer that Opacus knows,"
        " or opacus.grad_sample.register_grad_sampler"
    )


def opacus_knows(kind: type[nn.Module]) -> bool:
    """Return whether Opacus has a grad sampler for this layer with one input tensor."""
    from opacus.grad_sample import GradSampleModule
    from opacus.layers.dp_rnn import RNNLinear

    # RNNLinear gets single time steps, EmbeddingBag offsets: neither has the batch as its first dimension.
    return kind in GradSampleModule.GRAD_SAMPLERS and kind not in (RNNLinear, nn.EmbeddingBag)


def check_state(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model in which a forward pass changes a buffer or a parameter.

    Running statistics, for example, depend on examples without noise, are released with the model, and affect later
    batches without a bound. A copy does the pass, in the modes (training or evaluation) in which the model is trained.
    The inputs, `(B, ...)`, may be synthetic.

    Raises:
        ValueError: Names the first entry that changes.
    """
    copied = Passes(model, lambda outputs, labels: outputs).model
    before = _entries(copied)
    with drawing(0), torch.no_grad():
        copied(inputs.clone())
    after = _entries(copied)
    for name in [*before, *(after.keys() - before.keys())]:
        if name not in before or name not in after or not _same_bits(before[name], after[name]):
            raise ValueError(
                f"{name} changes in a pass forward: what examples leave there gets no noise, and is released with"
                " the model; a model trained by DP-SGD may keep nothing of a batch (nn.GroupNorm and nn.LayerNorm"
                " keep nothing)"
            )


def _entries(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's parameters and buffers, by name."""
    entries = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in entries.items()}


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (first, second)))
