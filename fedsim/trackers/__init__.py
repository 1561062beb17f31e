"""Trackers of other people's systems, each behind an extra."""

from fedsim.trackers.mlflow import MLflowTracker
from fedsim.trackers.tensorboard import TensorBoardTracker

__all__ = ["MLflowTracker", "TensorBoardTracker"]
