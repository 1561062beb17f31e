"""Models for tests, each with a property that fedsim must support, refuse or protect."""

import math
import os
import signal
import warnings

import torch
from torch import nn

from fedsim.tasks import Task


class Mixed(nn.Module):
    """A linear model with a parameter of another precision."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 10)
        self.shift = nn.Parameter(torch.zeros(10, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) + self.shift.to(x.dtype)


def mixed(task: Task) -> nn.Module:
    """Return a model of float32 and float64 parameters."""
    return Mixed(math.prod(task.inputs.shape))


def batch_normed(task: Task) -> nn.Module:
    """Return a model whose batch norm mixes examples, though it has no weights."""
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(math.prod(task.inputs.shape), affine=False), nn.Linear(64, 10)
    )


class Telling(nn.Module):
    """A linear model that tells of what it is trained on, and evaluates in silence."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            warnings.warn("label 4712", stacklevel=1)
            raise RuntimeError("norm 4711.25")
        return self.layer(x.flatten(1))


def telling(task: Task) -> nn.Module:
    """Return a model that raises and warns in training."""
    return Telling(math.prod(task.inputs.shape))


class Averaging(nn.Module):
    """Keeps the mean of its last batch in a buffer, and beside it in a parameter that is not trained.

    Args:
        inputs: Length of an input.
        least: Examples in a batch of which it keeps something.
    """

    def __init__(self, inputs: int, least: int) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("mean", torch.zeros(inputs))
        self.mean: torch.Tensor
        self.frozen = nn.Parameter(torch.zeros(inputs), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) >= self.least:
            self.mean.copy_(x.detach().mean(0))
            self.frozen.data.copy_(self.mean)
        return x


def averaging(task: Task, least: int = 1) -> nn.Module:
    """Return a linear model that keeps means of its inputs."""
    inputs = math.prod(task.inputs.shape)
    return nn.Sequential(nn.Flatten(), Averaging(inputs, least), nn.Linear(inputs, task.outputs.size))


class Centred(nn.Module):
    """Takes the batch's mean from each example."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


def centred(task: Task) -> nn.Module:
    """Return a linear model by which examples meet, and that draws random numbers."""
    inputs = math.prod(task.inputs.shape)
    return nn.Sequential(nn.Flatten(), Centred(), nn.Dropout(0.5), nn.Linear(inputs, task.outputs.size))


def dropping(task: Task, width: int = 1) -> nn.Module:
    """Return a linear model with dropout; of `width` other than 1 for inputs that the data does not have."""
    inputs = width * math.prod(task.inputs.shape)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs, task.outputs.size))


def interrupting(task: Task) -> nn.Module:
    """Return a linear model, after a SIGINT to this process."""
    os.kill(os.getpid(), signal.SIGINT)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.inputs.shape), task.outputs.size))


class Endless(nn.Module):
    """Makes logits infinite in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else x * math.inf


def endless(task: Task) -> nn.Module:
    """Return a linear model whose test loss is not finite, though it trains."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.inputs.shape), task.outputs.size), Endless())
