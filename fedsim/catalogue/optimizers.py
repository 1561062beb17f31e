"""Clients' optimizers, and schedules of their learning rate."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import OptimizerEntry, ScheduleEntry, find, table

OPTIMIZERS = table(
    OptimizerEntry(
        name="sgd",
        reference="fedsim.optimizers.sgd:Sgd",
        summary="SGD, with `client.momentum`; `client.weight-decay` is an L2 penalty",
        beside=frozenset({"momentum", "weight-decay"}),
    ),
    OptimizerEntry(
        name="adam",
        reference="fedsim.optimizers.adam:Adam",
        summary="Adam (Kingma and Ba 2015); `client.weight-decay` is an L2 penalty",
        options=o.AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
    OptimizerEntry(
        name="adamw",
        reference="fedsim.optimizers.adamw:AdamW",
        summary="Adam with `client.weight-decay` outside the moments (Loshchilov and Hutter 2019)",
        options=o.AdamOptions,
        beside=frozenset({"weight-decay"}),
    ),
)


SCHEDULES = table(
    ScheduleEntry(
        name="constant",
        reference="fedsim.schedules.constant:constant",
        summary="the same rate in all rounds",
    ),
    ScheduleEntry(
        name="exponential",
        reference="fedsim.schedules.exponential:exponential",
        summary="times `client.learning-rate-decay` after each round",
        beside=frozenset({"learning-rate-decay"}),
    ),
    ScheduleEntry(
        name="step",
        reference="fedsim.schedules.step:step",
        summary="times `gamma` after every so many rounds",
        options=o.StepOptions,
    ),
    ScheduleEntry(
        name="cosine",
        reference="fedsim.schedules.cosine:cosine",
        summary="along half a cosine over the run, down to `floor` (Loshchilov and Hutter 2017)",
        options=o.CosineOptions,
    ),
)


def find_optimizer(name: str) -> OptimizerEntry:
    """Return the entry of an optimizer; `"module:callable"` is the user's own; raises `Refused` for an unknown name."""
    if ":" in name:
        return OptimizerEntry(name=name, reference=name, summary="", options=o.FreeOptions, draws=True)
    return find(OPTIMIZERS, name, ', or "module:callable"')


def find_schedule(name: str) -> ScheduleEntry:
    """Return the entry of a schedule; `"module:callable"` is the user's own; raises `Refused` for an unknown name."""
    if ":" in name:
        return ScheduleEntry(name=name, reference=name, summary="", options=o.FreeOptions)
    return find(SCHEDULES, name, ', or "module:callable"')
