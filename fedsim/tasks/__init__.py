"""Tasks: targets, loss and metrics of a model."""

from fedsim.catalogue import Targets
from fedsim.tasks.metric import Column, Direction, Format, Metric, Scoring, column_of
from fedsim.tasks.task import InputSpec, OutputSpec, Score, Task

__all__ = [
    "Column",
    "Direction",
    "Format",
    "InputSpec",
    "Metric",
    "OutputSpec",
    "Score",
    "Scoring",
    "Targets",
    "Task",
    "column_of",
]
