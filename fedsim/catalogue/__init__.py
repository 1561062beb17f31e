"""Catalogue: data, tasks, models, algorithms, strategies, optimizers, schedules, transforms and mechanisms by name.

An entry holds a name, a reference (`"module:attribute"`), its options, and traits that the rest of fedsim uses. The
catalogue is enough to list and validate; the referenced module is imported on first use.
"""

from fedsim.catalogue.algorithms import ALGORITHMS, find_algorithm
from fedsim.catalogue.data import PARTITIONS, SOURCES, find_partition, find_source
from fedsim.catalogue.entries import (
    AlgorithmEntry,
    AnyEntry,
    Entry,
    Kind,
    MechanismEntry,
    ModelEntry,
    OptimizerEntry,
    PartitionEntry,
    RoundScheduleEntry,
    SamplingEntry,
    ScheduleEntry,
    SourceEntry,
    StrategyEntry,
    Targets,
    TaskEntry,
    TransformEntry,
    find,
    option_keys,
    table,
)
from fedsim.catalogue.mechanisms import BUDGETS, MECHANISMS, NO_MECHANISM, find_mechanism
from fedsim.catalogue.models import MODELS, TASKS, find_model, find_task
from fedsim.catalogue.optimizers import OPTIMIZERS, SCHEDULES, find_optimizer, find_schedule
from fedsim.catalogue.rounds import ROUND_SCHEDULES, find_round_schedule
from fedsim.catalogue.samplings import SAMPLINGS, find_sampling
from fedsim.catalogue.strategies import STRATEGIES, find_strategy
from fedsim.catalogue.transforms import TRANSFORMS, find_transform

__all__ = [
    "ALGORITHMS",
    "BUDGETS",
    "MECHANISMS",
    "MODELS",
    "NO_MECHANISM",
    "OPTIMIZERS",
    "PARTITIONS",
    "ROUND_SCHEDULES",
    "SAMPLINGS",
    "SCHEDULES",
    "SOURCES",
    "STRATEGIES",
    "TASKS",
    "TRANSFORMS",
    "AlgorithmEntry",
    "AnyEntry",
    "Entry",
    "Kind",
    "MechanismEntry",
    "ModelEntry",
    "OptimizerEntry",
    "PartitionEntry",
    "RoundScheduleEntry",
    "SamplingEntry",
    "ScheduleEntry",
    "SourceEntry",
    "StrategyEntry",
    "Targets",
    "TaskEntry",
    "TransformEntry",
    "find",
    "find_algorithm",
    "find_mechanism",
    "find_model",
    "find_optimizer",
    "find_partition",
    "find_round_schedule",
    "find_sampling",
    "find_schedule",
    "find_source",
    "find_strategy",
    "find_task",
    "find_transform",
    "option_keys",
    "table",
]
