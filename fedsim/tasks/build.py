"""Builds an experiment's task."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from fedsim.catalogue import TaskEntry
from fedsim.errors import Refused
from fedsim.options import make_with
from fedsim.references import refused_in
from fedsim.tasks.metric import Metric, Scoring
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    from fedsim.data.spec import DataSpec
    from fedsim.experiment import Experiment

METHODS = ("tensors", "loss", "losses", "measure", "score")


def task_class(entry: TaskEntry) -> type[Task]:
    """Return the class of a task, or the user's callable with the same attributes.

    Raises:
        Refused: It is missing, or lacks targets or metrics.
    """
    found: Any = entry.load()
    where = f"task.name = {entry.name!r}"
    entry.targets()
    metrics = getattr(found, "metrics", ())
    if not (isinstance(metrics, tuple) and metrics and all(isinstance(m, Metric) for m in metrics)):
        raise Refused(f"{where}: has no attribute metrics, a tuple of fedsim.tasks.Metric")
    if len({metric.name for metric in metrics}) < len(metrics):
        raise Refused(f"{where}: two of its metrics have one name")
    return cast(type[Task], found)


def scoring_of(experiment: Experiment) -> Scoring:
    """Return the scoring of an experiment's rows; errors as `task_class`."""
    entry = experiment.task_entry
    found = task_class(entry)
    return Scoring(task=entry.name, metrics=found.metrics, loss_unit=str(getattr(found, "loss_unit", "")))


def task_of(experiment: Experiment, data: DataSpec) -> Task:
    """Return an experiment's task.

    A user's own `"module:callable"` is called with the data's spec and, as keyword arguments, the other keys of
    `[task]`.

    Raises:
        Refused: The data has more labels than `model.classes`, or the user's callable is missing or returns no task.
    """
    entry, wanted = experiment.task_entry, experiment.model.classes
    if wanted is not None and data.classes == 0:
        raise Refused(
            f"model.classes = {wanted}: the targets of task {entry.name!r} are real values, not labels"
        )
    if wanted is not None and data.classes > wanted:
        raise Refused(
            f"model.classes = {wanted}: the data has the label {data.classes - 1}; "
            f"at least {data.classes} classes are needed"
        )
    data = replace(data, classes=wanted or data.classes)
    make, where = task_class(entry), f"task.name = {entry.name!r}"
    with refused_in(where):
        task = make_with(make, data, experiment.task_options)
    lacks = [name for name in METHODS if not callable(getattr(task, name, None))]
    lacks += [name for name in ("inputs", "outputs") if not hasattr(task, name)]
    if lacks:
        raise Refused(f"{where}: returned {type(task).__name__}, which is no task: it has no {lacks[0]}")
    return cast(Task, task)
