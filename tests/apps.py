"""ClientApps for the tests: one that misbehaves by client, two with per-client state, one of them with a mod."""

import math
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from torch import nn

from fedsim.tasks import Task

faulty = ClientApp()

REASONS = {
    1: "RuntimeError: out of luck",
    2: "sent NaN or infinity in w",
    3: "sent w with shape (2,), not (3,)",
    4: "sent other arrays than the model has: v, w",
    5: "reported train-loss = nan",
    6: "reported no num-examples above 0",
    7: "sent w as float64, not float32",
    8: "sent 0 array records and 1 metric records, not one of each",
}


@faulty.train()
def misbehave(message: Message, context: Context) -> Message:
    """Clients 1 to 8 fail as `REASONS` says; the others add their number to the weights."""
    client = int(context.node_config["partition-id"])
    w = message.content.array_records["arrays"]["w"].numpy() + np.float32(client)
    if client == 1:
        raise RuntimeError("out of luck")
    w = {2: w * np.float32("nan"), 3: w[:2], 7: w.astype(np.float64)}.get(client, w)
    metrics = {
        "num-examples": 0 if client == 6 else 10,
        "train-loss": float("nan") if client == 5 else float(client),
    }
    content = RecordDict({"metrics": MetricRecord(metrics)})
    if client != 8:
        content["arrays"] = ArrayRecord({"v" if client == 4 else "w": Array(w)})
    return Message(content, reply_to=message)


def count(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count the messages that pass, in the client's state."""
    passed = context.state.config_records.setdefault("count", ConfigRecord({"messages": 0}))
    passed["messages"] = int(passed["messages"]) + 1  # type: ignore[arg-type]
    return call_next(message, context)


stateful = ClientApp(mods=[count])


@stateful.query()
def tell(message: Message, context: Context) -> Message:
    """Tell how many messages this client has seen, and in which process."""
    told = {"messages": int(context.state.config_records["count"]["messages"]), "process": os.getpid()}  # type: ignore[arg-type]
    return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)


@stateful.query("die")
def die(message: Message, context: Context) -> Message:
    """Kill this process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@stateful.query("die_once")
def die_once(message: Message, context: Context) -> Message:
    """Kill this process the first time that any client comes here; the message names a file to remember it by."""
    mark = Path(str(message.content.config_records["config"]["mark"]))
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return tell(message, context)


@stateful.query("add")
def add(message: Message, context: Context) -> Message:
    """Send the message's array with this client's number added, and spoil the message for whoever comes after."""
    client = int(context.node_config["partition-id"])
    arrays = message.content.array_records["arrays"]
    w = arrays["w"].numpy()
    w += client
    message.content.array_records["arrays"] = ArrayRecord({"w": Array(np.full(3, np.nan))})
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(w)})}), reply_to=message)


@stateful.query("remember")
def remember(message: Message, context: Context) -> Message:
    """Keep the message's array in the client's state, after sending what was kept before; client 3 then raises."""
    kept = context.state.array_records.get("kept", ArrayRecord())
    context.state["kept"] = message.content.array_records["arrays"]
    if int(context.node_config["partition-id"]) == 3:
        raise RuntimeError("too late")
    return Message(RecordDict({"kept": kept}), reply_to=message)


@stateful.query("sleep")
def sleep(message: Message, context: Context) -> Message:
    """Answer after ten seconds."""
    time.sleep(10)
    return Message(RecordDict(), reply_to=message)


drifting = ClientApp()


@drifting.query()
def drifter(message: Message, context: Context) -> Message:
    """Say which client this is."""
    client = int(context.node_config["partition-id"])
    return Message(RecordDict({"identity": ConfigRecord({"client": client})}), reply_to=message)


@drifting.train()
def drift(message: Message, context: Context) -> Message:
    """Move the weights further each time: by what this client remembers of its own former moves."""
    client = int(context.node_config["partition-id"])
    received = message.content.array_records["arrays"]
    rounds = context.state.metric_records.setdefault("rounds", MetricRecord({"trained": 0}))
    rounds["trained"] = int(rounds["trained"]) + 1  # type: ignore[arg-type]
    moves = context.state.array_records.get("moves")
    moved = {
        name: (0.5 * moves[name].numpy() if moves else 0) + np.float32((client + 1) / 64) * np.sign(w.numpy())
        for name, w in received.items()
    }
    context.state["moves"] = ArrayRecord({name: Array(move) for name, move in moved.items()})
    arrays = ArrayRecord({name: Array(w.numpy() + moved[name]) for name, w in received.items()})
    metrics = MetricRecord({"num-examples": 10, "train-loss": float(rounds["trained"])})  # type: ignore[arg-type]
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


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
