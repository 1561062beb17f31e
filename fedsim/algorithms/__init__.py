"""Algorithms, one file each: local training, the extra fields of messages, and clients' state."""

from fedsim.algorithms.protocol import Algorithm, Arrays, Field, Job

__all__ = ["Algorithm", "Arrays", "Field", "Job"]
