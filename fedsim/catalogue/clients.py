"""What clients do: algorithms, transforms of updates, optimizers, and schedules of the learning rate."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import (
    AlgorithmEntry,
    OptimizerEntry,
    ScheduleEntry,
    TransformEntry,
    finder,
    table,
)

ALGORITHMS = table(
    AlgorithmEntry(
        "fedavg",
        "fedsim.algorithms.fedavg:FedAvg",
        "clients train the model that they receive (McMahan et al. 2017), for every strategy",
    ),
    AlgorithmEntry(
        "scaffold",
        "fedsim.algorithms.scaffold:Scaffold",
        "control variates against client drift (Karimireddy et al. 2020)",
        options=o.ScaffoldOptions,
        fields=True,
    ),
)
find_algorithm = finder(ALGORITHMS, fields=True)

TRANSFORMS = table(
    TransformEntry(
        "top-k",
        "fedsim.transforms.topk:TopK",
        "the coordinates of largest magnitude, the others zero (Aji and Heafield 2017)",
        options=o.TopKOptions,
    ),
    TransformEntry(
        "quantise",
        "fedsim.transforms.quantise:Quantise",
        "unbiased stochastic rounding to levels of the update's L2 norm (QSGD, Alistarh et al. 2017)",
        options=o.QuantiseOptions,
    ),
)
find_transform = finder(TRANSFORMS)

OPTIMIZERS = table(
    OptimizerEntry(
        "sgd",
        "fedsim.optimizers.sgd:Sgd",
        "SGD, with `client.momentum`; `client.weight-decay` is an L2 penalty",
        beside=frozenset({"momentum", "weight-decay"}),
    ),
    OptimizerEntry(
        "adam",
        "fedsim.optimizers.adam:Adam",
        "Adam (Kingma and Ba 2015); `client.weight-decay` is an L2 penalty",
        options=o.AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
    OptimizerEntry(
        "adamw",
        "fedsim.optimizers.adamw:AdamW",
        "Adam with `client.weight-decay` outside the moments (Loshchilov and Hutter 2019)",
        options=o.AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
)
find_optimizer = finder(OPTIMIZERS, draws=True)

SCHEDULES = table(
    ScheduleEntry("constant", "fedsim.schedules.constant:constant", "the same rate in all rounds"),
    ScheduleEntry(
        "exponential",
        "fedsim.schedules.exponential:exponential",
        "times `client.learning-rate-decay` after each round",
        beside=frozenset({"learning-rate-decay"}),
    ),
    ScheduleEntry(
        "step",
        "fedsim.schedules.step:step",
        "times `gamma` after every so many rounds",
        options=o.StepOptions,
    ),
    ScheduleEntry(
        "cosine",
        "fedsim.schedules.cosine:cosine",
        "along half a cosine over the run, down to `floor` (Loshchilov and Hutter 2017)",
        options=o.CosineOptions,
    ),
)
find_schedule = finder(SCHEDULES)
