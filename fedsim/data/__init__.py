"""Data: sources, partitions, and `FederatedData`, which holds a partitioned source for every process."""

from fedsim.data.federated import ClientData, Examples, FederatedData, prepare
from fedsim.data.raw import Raw
from fedsim.data.spec import DataSpec

__all__ = ["ClientData", "DataSpec", "Examples", "FederatedData", "Raw", "prepare"]
