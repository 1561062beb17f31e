"""Synthetic examples for trying out a model."""

from __future__ import annotations

import torch

from fedsim.catalogue import Kind, Targets
from fedsim.data.federated import Examples
from fedsim.data.spec import DataSpec

MADE_UP = 4  # examples


def made_up(data: DataSpec) -> Examples:
    """Return four synthetic examples, always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (MADE_UP, data.shape[0] + data.per_token) if data.kind is Kind.TEXT else (MADE_UP, *data.shape)
    inputs = torch.empty(shape)
    if data.kind is Kind.TEXT:
        inputs = inputs.to(torch.uint8).random_(data.vocabulary, generator=generator)
    else:
        inputs.uniform_(generator=generator)
    targets = None
    if data.targets is Targets.VALUES:
        shape = (MADE_UP,) if data.values == 1 else (MADE_UP, data.values)
        targets = torch.empty(shape).uniform_(-1, 1, generator=generator)
    elif data.targets is Targets.LABELS:
        targets = torch.empty(MADE_UP, dtype=torch.long).random_(data.classes, generator=generator)
    return Examples(inputs.numpy(), None if targets is None else targets.numpy(), data.kind)
