"""Builds models by name, and synthetic examples to try one on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fedsim.catalogue import Kind, Targets
from fedsim.data import DataSpec, Examples
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.models.state import ModelState
from fedsim.options import make_with
from fedsim.references import refused_in
from fedsim.sections import ModelSection
from fedsim.streams import all_draws_from
from fedsim.tasks import Task
from fedsim.tasks.scoring import evaluation_mode


def build(section: ModelSection, task: Task) -> nn.Module:
    """Build the model of an experiment; its weights come from PyTorch's default generator. It is in training mode.

    A user's own `"module:callable"` is called with the task and, as keyword arguments, the other keys of
    `[model]`.

    Raises:
        Refused: The model is not for this kind of data, or the user's callable is missing, raises, or returns no
            module.
    """
    entry = section.entry
    if task.inputs.kind not in entry.kinds:
        kinds = " or ".join(sorted(entry.kinds))
        raise Refused(f"model.name = {section.name!r}: is for {kinds}, and the data is {task.inputs.kind}")
    options = section.pick(entry)
    with refused_in(f"model.name = {section.name!r}"):
        model = make_with(entry.load(), task, options)
    if not isinstance(model, nn.Module):
        raise Refused(
            f"model.name = {section.name!r}: returned {type(model).__name__}; a torch.nn.Module is needed"
        )
    # Lazy layers take the shapes of their weights from their first inputs.
    if any(
        isinstance(value, UninitializedParameter | UninitializedBuffer)
        for value in model.state_dict().values()
    ):
        dtype = torch.long if task.inputs.kind is Kind.TEXT else torch.float32
        with refused_in(f"model.name = {section.name!r}"), evaluation_mode(model), torch.no_grad():
            model(torch.zeros((1, *task.inputs.shape), dtype=dtype))
    if not model.training:  # else its modules keep the modes that its maker gave them
        model.train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # channels last in memory halves a step's time on a CPU
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def initial_model(experiment: Experiment, task: Task) -> nn.Module:
    """Build the experiment's model with the weights of round 0, which follow from the seed; errors as `build`."""
    with all_draws_from(experiment.seed, "initial-weights"):
        return build(experiment.model, task)


def initial_state(experiment: Experiment, task: Task, data: DataSpec) -> ModelState:
    """Build the experiment's model as `initial_model` does, and find out what of its state training may change.

    Raises:
        Refused: As `build`; or the model has no parameter that is trained, or fails on four made-up examples.
    """
    model = initial_model(experiment, task)
    inputs, targets = task.tensors(made_up(data))
    with (
        refused_in(f"model.name = {experiment.model.name!r}"),
        all_draws_from(experiment.seed, "model-trial"),
    ):
        return ModelState(model, lambda: _try(model, task, inputs, targets))


def _try(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> None:
    """Train a model on a batch up to the gradient, and evaluate it on one example, whatever it raises."""
    task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise ValueError(f"{name} has sparse gradients; allowed: sparse = False")
        parameter.grad = None
    with evaluation_mode(model), torch.no_grad():
        task.measure(model(inputs[:1]), targets[:1])


def made_up(data: DataSpec) -> Examples:
    """Return four synthetic examples, always the same."""
    count, generator = 4, torch.Generator().manual_seed(0)
    if data.kind is Kind.TEXT:
        inputs = torch.empty((count, data.shape[0] + data.per_token), dtype=torch.uint8)
        inputs.random_(data.vocabulary, generator=generator)
    else:
        inputs = torch.empty((count, *data.shape)).uniform_(generator=generator)
    targets = None
    if data.targets is Targets.VALUES:
        shape = (count,) if data.values == 1 else (count, data.values)
        targets = torch.empty(shape).uniform_(-1, 1, generator=generator)
    elif data.targets is Targets.LABELS:
        targets = torch.empty(count, dtype=torch.long).random_(data.classes, generator=generator)
    return Examples(inputs.numpy(), None if targets is None else targets.numpy(), data.kind)
