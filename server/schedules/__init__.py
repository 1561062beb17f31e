"""Schedules of rounds in which the server does not wait for a whole cohort; one file each."""

from __future__ import annotations

from fedsim.privacy.cohorts.sampling import CohortSampling
from fedsim.server.aggregation.updates import Aggregator

__all__ = ["Schedule"]


class Schedule(CohortSampling, Aggregator):
    """A schedule of rounds in virtual time; replaces the cohort sampling and the aggregator.

    In each round `draw` returns the clients that begin to train on the round's model. Then `collect` trains them, and
    returns the updates that have arrived for the next model, of trainings from this round or earlier ones.
    """
