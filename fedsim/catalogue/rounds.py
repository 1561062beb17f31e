"""Schedules of rounds, beside synchronous ones."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import RoundScheduleEntry, find, table

ROUND_SCHEDULES = table(
    RoundScheduleEntry(
        name="buffered",
        reference="fedsim.server.schedules.buffered:Buffered",
        summary="FedBuff: every `cohort` arrived updates make a model, in virtual time (Nguyen et al. 2022)",
        options=o.BufferedOptions,
    ),
)


def find_round_schedule(name: str) -> RoundScheduleEntry:
    """Return the entry of a schedule of rounds; `"module:callable"` is the user's own; raises `Refused` if unknown."""
    if ":" in name:
        return RoundScheduleEntry(name=name, reference=name, summary="", options=o.FreeOptions)
    return find(ROUND_SCHEDULES, name, ', or "module:callable"; unset: synchronous')
