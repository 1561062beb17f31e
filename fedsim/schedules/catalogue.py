"""Schedules by name, and their options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsim.catalogue import Entry, find, table
from fedsim.options import FreeOptions, Options


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry(Entry):
    """A schedule: `reference` is a function `(round, rounds, **arguments) -> float`, the factor on the learning rate.

    The arguments are the options, and the keys of `[client]` in `beside`.
    """


class StepOptions(Options):
    """Options of `step`."""

    every: int = Field(ge=1)
    """Rounds from one drop of the rate to the next."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor on the rate at each drop."""


class CosineOptions(Options):
    """Options of `cosine`."""

    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the learning rate that is left at the end."""


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
        options=StepOptions,
    ),
    ScheduleEntry(
        name="cosine",
        reference="fedsim.schedules.cosine:cosine",
        summary="along half a cosine over the run, down to `floor` (Loshchilov and Hutter 2017)",
        options=CosineOptions,
    ),
)


def find_schedule(name: str) -> ScheduleEntry:
    """Return the entry of a schedule; `"module:callable"` is the user's own; raises `Refused` where there is none."""
    if ":" in name:
        return ScheduleEntry(name=name, reference=name, summary="", options=FreeOptions)
    return find(SCHEDULES, name, ', or "module:callable"')
