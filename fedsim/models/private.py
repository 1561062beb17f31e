"""The gradient by which an experiment's model is trained privately, and made-up examples to try the model by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.catalogue import Kind
from fedsim.data.task import Task
from fedsim.models.scoring import example_losses
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.settings import DpSgdSettings

MADE_UP = 4  # examples


def private_gradient(
    model: nn.Module, dp_sgd: DpSgdSettings, arithmetic: Arithmetic = Arithmetic.GRID
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


def made_up(task: Task) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of a task that are nobody's, always the same: `(4, *shape)`, and `(4,)` or `(4, length)`."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.empty(MADE_UP, *task.shape)
    if task.kind is Kind.TEXT:
        inputs = inputs.long().random_(task.vocabulary, generator=generator)
    else:
        inputs.uniform_(generator=generator)
    shape = inputs.shape if task.per_token else inputs.shape[:1]
    return inputs, torch.empty(shape, dtype=torch.long).random_(task.classes, generator=generator)
