"""Cohort samplings."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import SamplingEntry, find, table

SAMPLINGS = table(
    SamplingEntry(
        name="fixed",
        reference="fedsim.privacy.cohorts.sampling:IndependentCohorts",
        summary="`cohort` clients, without replacement",
    ),
    SamplingEntry(
        name="poisson",
        reference="fedsim.privacy.cohorts.sampling:IndependentCohorts",
        summary="each client independently (Poisson sampling)",
    ),
    SamplingEntry(
        name="truncated-poisson",
        reference="fedsim.privacy.cohorts.sampling:IndependentCohorts",
        summary="Poisson sampling, truncated to `max-cohort` clients",
    ),
    SamplingEntry(
        name="b-min-sep",
        reference="fedsim.privacy.cohorts.separated:SeparatedCohorts",
        summary="each client at most once in `min-separation` rounds, for a mechanism that needs it",
    ),
)


def find_sampling(name: str) -> SamplingEntry:
    """Return the entry of a sampling; `"module:callable"` is the user's own; raises `Refused` for an unknown name."""
    if ":" in name:
        return SamplingEntry(name=name, reference=name, summary="", options=o.FreeOptions)
    return find(SAMPLINGS, name, ', or "module:callable"')
