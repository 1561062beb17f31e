"""The tables of an experiment; each is frozen and checks itself.

`fedsim.checks` checks combinations of tables.
"""

from fedsim.sections.client import ClientSection
from fedsim.sections.experiment import ExperimentTables
from fedsim.sections.named import AlgorithmSection, DataSection, ModelSection, TaskSection, TransformSection
from fedsim.sections.privacy import PrivacySection
from fedsim.sections.server import ServerSection
from fedsim.sections.simulation import FaultsSection, RuntimeSection

__all__ = [
    "AlgorithmSection",
    "ClientSection",
    "DataSection",
    "ExperimentTables",
    "FaultsSection",
    "ModelSection",
    "PrivacySection",
    "RuntimeSection",
    "ServerSection",
    "TaskSection",
    "TransformSection",
]
