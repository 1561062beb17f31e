"""The tables of an experiment: data, task, model, algorithm, transforms, client, server, faults, runtime.

Each is frozen and checks itself; `fedsim.checks` checks combinations of tables.
"""

from fedsim.sections.client import ClientSection
from fedsim.sections.data import DataSection
from fedsim.sections.faults import FaultsSection
from fedsim.sections.named import AlgorithmSection, ModelSection, TaskSection, TransformSection
from fedsim.sections.runtime import RuntimeSection
from fedsim.sections.server import ServerSection

__all__ = [
    "AlgorithmSection",
    "ClientSection",
    "DataSection",
    "FaultsSection",
    "ModelSection",
    "RuntimeSection",
    "ServerSection",
    "TaskSection",
    "TransformSection",
]
