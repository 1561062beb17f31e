"""The gradient by which an experiment's model is trained privately."""

from __future__ import annotations

from torch import nn

from fedsim.models.scoring import example_losses
from fedsim.privacy_sections import DpSgdSection
from privacy.arithmetic import Arithmetic
from privacy.dp_sgd import PrivateGradient


def private_gradient(
    model: nn.Module, dp_sgd: DpSgdSection, arithmetic: Arithmetic = Arithmetic.GRID
) -> PrivateGradient:
    """Return what clips, sums and noises the gradients of a model, as `[privacy.dp-sgd]` says.

    Raises:
        ValueError: The model can't be trained so, or not with that kernel.
    """
    return PrivateGradient(
        model,
        example_losses,
        clip=dp_sgd.clip,
        kernel=dp_sgd.kernel,
        max_batch=dp_sgd.max_batch,
        arithmetic=arithmetic,
    )
