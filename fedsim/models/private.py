"""Made-up examples, by which it is tried whether a model can be trained under a privacy mechanism."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.catalogue import Kind
from fedsim.data.task import Task

MADE_UP = 4  # examples


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
