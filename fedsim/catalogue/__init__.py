"""Catalogue: data, tasks, models, algorithms, strategies, optimizers, schedules, transforms and mechanisms by name.

An entry holds a name, a reference (`"module:attribute"`), its options, and traits that the rest of fedsim uses. The
catalogue is enough to list and validate; the referenced module is imported on first use.
"""

from fedsim.catalogue.clients import (
    ALGORITHMS,
    OPTIMIZERS,
    SCHEDULES,
    TRANSFORMS,
    find_algorithm,
    find_optimizer,
    find_schedule,
    find_transform,
)
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
    option_keys,
)
from fedsim.catalogue.mechanisms import BUDGETS, MECHANISMS, NO_MECHANISM, find_mechanism
from fedsim.catalogue.models import MODELS, TASKS, find_model, find_task
from fedsim.catalogue.server import (
    ROUND_SCHEDULES,
    SAMPLINGS,
    STRATEGIES,
    find_round_schedule,
    find_sampling,
    find_strategy,
)

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
]
