"""From a name to a model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from fedsim.data.task import Task
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.options import FreeOptions
from fedsim.sections import ModelSection
from fedsim.streams import torch_draws_from


def build(section: ModelSection, task: Task) -> nn.Module:
    """Build the model of an experiment; its weights come from PyTorch's default generator.

    A user's own `"module:callable"` is called with the task and, as keyword arguments, the other keys of
    `[model]`.

    Raises:
        Refused: The model is not for this kind of data, the data has more labels than the model has classes,
            or the user's callable is missing or returns no module.
    """
    entry = section.entry
    if task.kind not in entry.kinds:
        kinds = " or ".join(sorted(entry.kinds))
        raise Refused(f"model.name = {section.name!r}: is for {kinds}, and the data is {task.kind}")
    if section.classes is not None and task.classes > section.classes:
        raise Refused(
            f"model.classes = {section.classes}: the data has the label {task.classes - 1}; "
            f"at least {task.classes} classes are needed"
        )
    task = replace(task, classes=section.classes or task.classes)
    options = section.pick(entry)
    make = entry.load()
    if not isinstance(options, FreeOptions):
        model = make(task, options)
    else:
        arguments = {key.replace("-", "_"): value for key, value in (options.model_extra or {}).items()}
        try:
            model = make(task, **arguments)
        except TypeError as error:
            raise Refused(f"model.name = {section.name!r}: {error}") from None
    if not isinstance(model, nn.Module):
        raise Refused(
            f"model.name = {section.name!r}: returned {type(model).__name__}; a torch.nn.Module is needed"
        )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # channels last in memory: the kernels of CPUs are faster on it
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def initial_model(experiment: Experiment, task: Task) -> nn.Module:
    """Build the experiment's model with the weights of round 0, which follow from the seed; errors as `build`."""
    with torch_draws_from(experiment.seed, "initial-weights"):
        return build(experiment.model, task)
