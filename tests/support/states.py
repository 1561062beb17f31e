"""Models with more, or less, in their state than parameters that are trained, and experiments with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim import Experiment
from fedsim.tasks import Task

TERMS: dict[str, Any] = {"delta": 1e-3, "clip": 0.5}
MECHANISMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dp-sgd": {"dp-sgd": {"noise-multiplier": 1.0, "delta": 5e-4, "clip": 0.5}},
    "dp-fedavg": {"dp-fedavg": {"noise-multiplier": 1.0, **TERMS}},
    "dp-ftrl": {
        "dp-ftrl": {"noise-multiplier": 1.0, "min-separation": 3, "adversary": "released-models", **TERMS}
    },
    "local-dp": {"local-dp": {"noise-multiplier": 0.3, **TERMS}},
    "secagg": {"secagg": {"clip": 4.0}},
}


def setting(name: str, mechanism: str = "plain", **tables: Any) -> Experiment:
    """Return an experiment with a model of this file."""
    server = {"cohort": 4, "weighting": "uniform"}
    server |= {"sampling": "b-min-sep"} if mechanism == "dp-ftrl" else {}
    base: dict[str, Any] = {
        "rounds": 2,
        "data": {"clients": 12, "partition": "iid"},
        "model": {"name": f"tests.support.states:{name}"},
        "client": {"batch-size": 32, "learning-rate": 0.1},
        "privacy": MECHANISMS[mechanism],
        "runtime": {"engine": "sequential"},
    }
    for key, table in {"server": server, **tables}.items():
        base[key] = {**base.get(key, {}), **table}
    return Experiment.model_validate(base)


class Adapted(nn.Module):
    """A frozen random layer with a trained correction of rank 2 (LoRA), and a constant by which inputs are divided.

    Args:
        outputs: Number of classes.
        in_state: Whether the state dict has the frozen layer and the constant.
    """

    def __init__(self, outputs: int, in_state: bool) -> None:
        super().__init__()
        base = nn.Linear(64, 64).requires_grad_(False)
        if in_state:
            self.base = base
        else:
            object.__setattr__(self, "base", base)
        self.register_buffer("deviation", torch.tensor(0.35), persistent=in_state)
        self.down = nn.Linear(64, 2, bias=False)
        self.up = nn.Linear(2, 64, bias=False)
        self.head = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) / self.deviation
        return self.head(F.relu(self.base(x) + self.up(self.down(x))))


def adapted(task: Task, in_state: bool = True) -> nn.Module:
    """Return a model of which a small part is trained."""
    return Adapted(task.outputs.size, in_state)


class Twice(nn.Module):
    """A layer that is applied twice, under one name or, tied, under two."""

    def __init__(self, outputs: int, tied: bool) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.head = nn.Linear(64, outputs)
        self.second = nn.Linear(64, 64) if tied else None
        if self.second is not None:
            self.second.weight, self.second.bias = self.first.weight, self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        return self.head(F.relu((self.second or self.first)(x)))


def twice(task: Task, tied: bool) -> nn.Module:
    """Return a model with or without tied weights; both have the same initial ones."""
    return Twice(task.outputs.size, tied)


class Normed(nn.Module):
    """A batch norm between two linear layers."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.first(x.flatten(1)))))


def normed(task: Task) -> nn.Module:
    """Return a model with running means, running variances and a counter."""
    return Normed(task.outputs.size)


class Causal(nn.Module):
    """A Transformer over the rows of an image, with a causal mask, positions and flags in its state."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.positions = nn.Embedding(8, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, outputs)
        self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))
        self.register_buffer("position_ids", torch.arange(8))
        self.register_buffer("flags", torch.ones(8, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x.reshape(-1, 8, 8)) + self.positions(self.position_ids)
        return self.head(self.encoder(rows, mask=self.mask)[:, -1])


def causal(task: Task) -> nn.Module:
    """Return a small Transformer."""
    return Causal(task.outputs.size)


class Padded(nn.Module):
    """An embedding of the grey levels of an image, whose level 0 is padding."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.levels = nn.Embedding(4, 3, padding_idx=0)
        self.head = nn.Linear(64 * 3, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.levels((x.flatten(1) * 3.99).long()).flatten(1))


def padded(task: Task) -> nn.Module:
    """Return a model with a row of weights that no gradient reaches."""
    return Padded(task.outputs.size)
