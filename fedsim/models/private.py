"""The gradient by which an experiment's model is trained privately, and whether the model can be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.catalogue import Kind
from fedsim.data.task import Task
from fedsim.models.scoring import example_losses
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.independence import check_independent
from fedsim.privacy_sections import DpSgdSection

MADE_UP = 4  # examples


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


def check_private_model(model: nn.Module, task: Task) -> None:
    """Refuse a model by which an example depends on others, or that keeps something of them, by made-up examples.

    Args:
        model: Is trained in training mode, and put into it.
        task: What it is asked to do.

    Raises:
        ValueError: It can't be trained by DP-SGD, and why (`check_independent`).
    """
    check_independent(model.train(), example_losses, *made_up(task))


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
