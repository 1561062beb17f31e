"""Builds models by name."""

from __future__ import annotations

import torch
from torch import nn

from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.options import FreeOptions
from fedsim.sections import ModelSection
from fedsim.streams import torch_draws_from
from fedsim.tasks import Task
from fedsim.tasks.task import names_of


def build(section: ModelSection, task: Task) -> nn.Module:
    """Build the model of an experiment; its weights come from PyTorch's default generator.

    A user's own `"module:callable"` is called with the task and, as keyword arguments, the other keys of
    `[model]`.

    Raises:
        Refused: The model is not for this kind of data, or the user's callable is missing or returns no module.
    """
    entry = section.entry
    if task.inputs.kind not in entry.kinds:
        kinds = " or ".join(sorted(entry.kinds))
        raise Refused(f"model.name = {section.name!r}: is for {kinds}, and the data is {task.inputs.kind}")
    options = section.pick(entry)
    make = entry.load()
    if not isinstance(options, FreeOptions):
        model = make(task, options)
    else:
        try:
            model = make(task, **names_of(options))
        except TypeError as error:
            raise Refused(f"model.name = {section.name!r}: {error}") from None
    if not isinstance(model, nn.Module):
        raise Refused(
            f"model.name = {section.name!r}: returned {type(model).__name__}; a torch.nn.Module is needed"
        )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # channels last in memory: CPU kernels are faster
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def initial_model(experiment: Experiment, task: Task) -> nn.Module:
    """Build the experiment's model with the weights of round 0, which follow from the seed; errors as `build`."""
    with torch_draws_from(experiment.seed, "initial-weights"):
        return build(experiment.model, task)
