"""A model's buffers and frozen parameters, which DP-SGD must leave unchanged because they get no noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.passes import Passes, drawing


def check_state(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model in which a forward pass changes a buffer or a parameter.

    Running statistics, for example, depend on examples without noise, are released with the model, and affect later
    batches without a bound. A copy does the pass.

    Args:
        model: In the modes (training or evaluation) in which it is trained.
        inputs: Inputs for it, `(B, ...)`; may be synthetic.

    Raises:
        ValueError: Names the first entry that changes.
    """
    copied = Passes(model, lambda outputs, labels: outputs).model
    before = {name: tensor.detach().clone() for name, tensor in _entries(copied).items()}
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


class Untrained:
    """Saved buffers and frozen parameters of a model, to be restored."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (place, name, tensor, tensor.detach().clone())
            for module in model.modules()
            for place in (module._parameters, module._buffers)
            for name, tensor in place.items()
            if tensor is not None and not (tensor.requires_grad and isinstance(tensor, nn.Parameter))
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore them exactly, in place."""
        for place, name, tensor, values in self._kept:
            tensor.copy_(values)
            place[name] = tensor  # type: ignore[assignment]


def _entries(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    one, other = (t.detach().reshape(-1).view(torch.uint8) for t in (first, second))
    return torch.equal(one, other)
