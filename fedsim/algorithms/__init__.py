"""Algorithms: what travels beside the model, what clients keep of it, and how they train; one file each."""

from fedsim.algorithms.protocol import Algorithm, Arrays, Field, Job, Trained

__all__ = ["Algorithm", "Arrays", "Field", "Job", "Trained"]
