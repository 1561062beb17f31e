"""Data: sources, partitions, and `FederatedData`, which holds a partitioned source for every process."""

from fedsim.data.federated import ClientData, Examples, FederatedData, prepare
from fedsim.data.raw import Raw
from fedsim.data.task import Task

__all__ = ["ClientData", "Examples", "FederatedData", "Raw", "Task", "prepare"]
