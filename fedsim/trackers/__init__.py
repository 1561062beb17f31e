"""Trackers for external systems, each behind an extra."""

from fedsim.trackers.mlflow import MLflowTracker
from fedsim.trackers.tensorboard import TensorBoardTracker

__all__ = ["MLflowTracker", "TensorBoardTracker"]
