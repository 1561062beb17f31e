"""An experiment's task and its examples as tensors, for tests that compute by hand."""

from torch import Tensor

from fedsim import Experiment
from fedsim.catalogue import find_task
from fedsim.data import DataSpec, Examples, FederatedData, prepare
from fedsim.tasks import Task
from fedsim.tasks.build import task_of as build


def task_of(setting: Experiment) -> Task:
    """Return the task of an experiment, by its data."""
    return build(setting, prepare(setting).spec)


def plain(spec: DataSpec) -> Task:
    """Return the task of data with labels or next characters."""
    entry = find_task("next-character" if spec.per_token else "classification")
    made: Task = entry.load()(spec, entry.options())
    return made


def tensors(data: FederatedData, examples: Examples) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of examples of some data."""
    return plain(data.spec).tensors(examples)
