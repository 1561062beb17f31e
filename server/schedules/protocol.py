"""What a schedule is: it draws who begins to train in a round, and says whose updates the round's model is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from fedsim.privacy.cohorts.sampling import CohortSampling
from fedsim.server.aggregation.updates import Ask, Collected


class Schedule(CohortSampling, ABC):
    """The clients' time, which is virtual: nobody sleeps.

    It stands in the place of the cohort sampling and of the aggregator. In each round `draw` says who begins to train on
    the round's model, then `collect` has these train and returns the updates that have arrived when the next model is made:
    of any clients, trained in this round or in one before it.
    """

    secure = False

    @abstractmethod
    def collect(self, ask: Ask) -> Collected:
        """Have clients train, and return the updates that have arrived. As `Aggregator` says."""

    def report(self) -> dict[str, Any]:
        """Return nothing: updates come in clear."""
        return {}
