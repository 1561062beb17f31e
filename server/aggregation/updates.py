"""A cohort's updates: as messages for the strategy, or as a sum for the mechanism to noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, Message

from fedsim.algorithms.protocol import Fields
from fedsim.layout import Layout
from fedsim.privacy.events import Event
from fedsim.privacy.halves import Sums
from fedsim.server.grids.cohort import CohortGrid


class Updates(ABC):
    """A round's valid updates.

    Attributes:
        count: Number of updates.
        reported: Means of the clients' metrics, by name.
        reported_sums: Sums of the metrics, with the weights of the means.
    """

    count: int = 0
    reported: Mapping[str, float]
    reported_sums: Mapping[str, float]

    @abstractmethod
    def messages(self) -> list[Message]:
        """Return the messages that the strategy aggregates, in the order of the clients."""

    @abstractmethod
    def changes(self) -> Fields:
        """Return the unweighted mean changes of an algorithm's fields, float64.

        Raises:
            TypeError: Clients sent clipped differences.
        """

    @abstractmethod
    def sums(self) -> Sums:
        """Return the sum of the clients' clipped differences, float64, by the layout's names.

        Raises:
            TypeError: Clients sent models.
        """


class NoUpdates(Updates):
    """The updates of a cohort without updates.

    Args:
        layout: Of an update.
    """

    reported: Mapping[str, float] = {}
    reported_sums: Mapping[str, float] = {}

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def messages(self) -> list[Message]:
        """Return none."""
        return []

    def changes(self) -> Fields:
        """Return none."""
        return {}

    def sums(self) -> Sums:
        """Return zeros."""
        return {name: np.zeros(shape) for name, shape in self._layout.shapes.items()}


@dataclass(frozen=True)
class Collected:
    """Result of a cohort's training.

    Attributes:
        updates: The valid updates.
        failures: Reasons for failure, by client.
        events: The clients' privacy events, also of updates that can't be used.
        no_sum: Reason why secure aggregation has no sum; empty: it has one.
        columns: Further columns of the round's row.
    """

    updates: Updates
    failures: dict[int, str] = field(default_factory=dict)
    events: Sequence[Event] = ()
    no_sum: str = ""
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """A line for each failed client, and one for a missing sum."""
        lines = [f"client {client}: {why}" for client, why in self.failures.items()]
        return [*lines, f"no sum: {self.no_sum}"] if self.no_sum else lines


@dataclass(frozen=True)
class Ask:
    """A request to a cohort.

    Attributes:
        grid: The cohort's.
        requests: One message to each client, in their order.
        model: The global model.
        layout: Of an update.
        charge: Called with clients before they are asked to train.
        timeout: Seconds to wait.
    """

    grid: CohortGrid
    requests: list[Message]
    model: ArrayRecord
    layout: Layout
    charge: Callable[[Sequence[int]], None]
    timeout: float


class Aggregator(Protocol):
    """Trains a cohort and collects its updates.

    Attributes:
        secure: Whether secure aggregation sums updates. Clients then never repeat a round that they have begun, keep
            their events to themselves, and a round may have no sum.
    """

    @property
    def secure(self) -> bool:
        """Whether secure aggregation sums updates."""

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort."""

    def report(self) -> dict[str, Any]:
        """Return the manifest's entry on secure aggregation; empty without it."""
