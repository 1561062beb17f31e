"""The interface of schedules: they draw the clients that begin in a round, and choose the updates of its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from fedsim.privacy.cohorts.sampling import CohortSampling
from fedsim.server.aggregation.updates import Ask, Collected


class Schedule(CohortSampling, ABC):
    """A schedule of rounds in virtual time; replaces the cohort sampling and the aggregator.

    In each round `draw` returns the clients that begin to train on the round's model. Then `collect` trains them, and
    returns the updates that have arrived for the next model, of trainings from this round or earlier ones.
    """

    secure = False

    @abstractmethod
    def collect(self, ask: Ask) -> Collected:
        """Train clients, and return the updates that have arrived. As `Aggregator` says."""

    def report(self) -> dict[str, Any]:
        """Return an empty report: updates arrive in clear."""
        return {}
