"""Checks that a model's modules let examples be, and that it keeps nothing of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.privacy.dp_sgd.calls import drawing
from fedsim.privacy.dp_sgd.passes import Passes


def check_model(model: nn.Module) -> None:
    """Refuse a model that DP-SGD can't train, because a module of it mixes examples.

    All modules are checked, also those without parameters: batch norm mixes examples with or without an affine map.
    What `forward` does with tensors is checked on first use (`independence.check_independent`).

    Raises:
        ValueError: Names the first such module by its path and class, the reason, and what to do instead.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the model has no parameters to train")
    for path, module in model.named_modules():
        if reason := _mixes_examples(module):
            raise ValueError(f"{path or 'the model'} ({type(module).__name__}): {reason}")


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


def check_state(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model in which examples change a buffer or a parameter in a forward pass.

    Running statistics, for example, depend on examples without noise, are released with the model, and affect later
    batches without a bound. What changes in the same way whatever the examples, as spectral norm's vectors and
    counters of batches do, passes. Copies do the passes, in the modes (training or evaluation) in which the model is
    trained. The inputs, `(B, ...)`, may be synthetic.

    Raises:
        ValueError: Names the first entry that examples change.
    """
    before, after = _entries(model), _after(model, inputs)
    names = dict.fromkeys([*before, *after])
    changed = [n for n in names if n not in before or n not in after or not _same_bits(before[n], after[n])]
    if not changed:
        return
    for other in (torch.zeros_like(inputs[:1]), torch.ones_like(inputs[:1])):
        try:
            found = _after(model, other)
        except (IndexError, RuntimeError, ValueError):
            continue  # no such token
        for name in changed:
            if name not in found or name not in after or not _same_bits(found[name], after[name]):
                raise ValueError(
                    f"{name} changes in a pass forward: what examples leave there gets no noise, and is released with"
                    " the model; a model trained by DP-SGD may keep nothing of a batch (nn.GroupNorm and nn.LayerNorm"
                    " keep nothing)"
                )


def _after(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return a model's entries after a pass, which a copy does."""
    copied = Passes(model, lambda outputs, labels: outputs).model
    with drawing(0), torch.no_grad():
        copied(inputs.clone())
    return _entries(copied)


def _entries(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's parameters and buffers, by name."""
    entries = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in entries.items()}


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (first, second)))
