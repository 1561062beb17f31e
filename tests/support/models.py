"""Models for tests, each with a property that fedsim must support, refuse or protect."""

import math
import os
import random
import signal
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
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
        if self.training and len(x) != 4:  # not in the trial on four made-up examples
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


def asleep(task: Task) -> nn.Module:
    """Return a linear model whose batch norm stays in evaluation mode: its running mean is 0, its variance 1."""
    inputs = math.prod(task.inputs.shape)
    norm = nn.BatchNorm1d(inputs)
    norm.eval()
    return nn.Sequential(nn.Flatten(), norm, nn.Linear(inputs, task.outputs.size))


class Shaped(nn.Module):
    """A linear model whose outputs a function puts into another form."""

    def __init__(self, inputs: int, outputs: int, form: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return self.form(self.layer(x.flatten(1)))


FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda z: z,
    "dict": lambda z: {"loss": None, "logits": z},
    "tuple": lambda z: (z, z),
    "other dict": lambda z: {"scores": z},
    "middle": lambda z: z.unsqueeze(1),
    "squeezed": lambda z: z.squeeze(),
    "one": lambda z: z[:, :1],
}


def shaped(task: Task, form: str) -> nn.Module:
    """Return a linear model with outputs of a form."""
    return Shaped(math.prod(task.inputs.shape), task.outputs.size, FORMS[form])


def failing(task: Task) -> nn.Module:
    """Raise an exception of two lines."""
    raise KeyError("no\nhidden")


class Typed(nn.Module):
    """A linear model of another dtype, whose outputs are float32."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x.flatten(1).to(self.layer.weight.dtype))
        return z.real if z.is_complex() else z.float()


def typed(task: Task, dtype: str) -> nn.Module:
    """Return a linear model of a dtype."""
    return Typed(math.prod(task.inputs.shape), task.outputs.size, getattr(torch, dtype))


def lazy(task: Task) -> nn.Module:
    """Return a model that learns its input sizes from a first batch."""
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(task.outputs.size))


def meta(task: Task) -> nn.Module:
    """Return a model without memory."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(task.inputs.shape), task.outputs.size, device="meta")
    )


def quantised(task: Task) -> nn.Module:
    """Return a model with a quantised constant."""
    model = shaped(task, "tensor")
    model.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    return model


def sparse(task: Task) -> nn.Module:
    """Return a model with sparse gradients."""
    return nn.Sequential(
        Indices(), nn.Embedding(2, 3, sparse=True), nn.Flatten(), nn.LazyLinear(task.outputs.size)
    )


class Indices(nn.Module):
    """Turns numbers into 0 or 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) > 0.5).long()


def frozen(task: Task) -> nn.Module:
    """Return a model without a trained parameter."""
    return shaped(task, "tensor").requires_grad_(False)


class Extra(Shaped):
    """Keeps something in its state dict that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


def extra(task: Task) -> nn.Module:
    """Return a linear model with extra state."""
    return Extra(math.prod(task.inputs.shape), task.outputs.size, FORMS["tensor"])


class Leaking(nn.Module):
    """A linear model that counts its calls in an attribute, and draws from everybody's generators, even in evaluation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.calls = 0
        self.seen: list[int] = []
        self.register_buffer("total", torch.zeros(()), persistent=False)
        self.total: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.total += 1
        noise = random.random() + np.random.random()  # noqa: NPY002
        drawn = nn.functional.dropout(x.flatten(1), 0.5, training=True)
        return self.layer(drawn) * (noise + self.calls + len(self.seen) + self.total)


def leaking(task: Task) -> nn.Module:
    """Return a model that keeps more than its state dict says."""
    return Leaking(math.prod(task.inputs.shape), task.outputs.size)


class Merging(nn.Module):
    """A linear model that doubles its weights for an evaluation, as adapters are merged into a base."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def train(self, mode: bool = True) -> "Merging":
        if mode != self.training:
            self.layer.weight.data *= 0.5 if mode else 2.0
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


class Endless(nn.Module):
    """Makes logits infinite in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else x * math.inf


def endless(task: Task) -> nn.Module:
    """Return a linear model whose test loss is not finite, though it trains."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.inputs.shape), task.outputs.size), Endless())
