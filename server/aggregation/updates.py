"""A cohort's updates: as messages for the strategy, or as a sum for the mechanism to noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, Message

from fedsim.algorithms.protocol import Fields
from fedsim.layout import Layout
from fedsim.privacy.events import Event
from fedsim.privacy.halves import Sums
from fedsim.server.grids import CohortGrid


class Updates(ABC):
    """A round's valid updates.

    Attributes:
        count: Number of updates.
        reported: Means of the clients' metrics, by name.
        reported_sums: Sums of the metrics, with the weights of the means.
    """

    count: int = 0
    reported: Mapping[str, float] = {}
    reported_sums: Mapping[str, float] = {}

    @abstractmethod
    def messages(self) -> list[Message]:
        """Return the messages for the strategy, in the order of the clients; `TypeError` for clipped differences."""

    def changes(self) -> Fields:
        """Return the unweighted mean changes of an algorithm's fields, float64; `TypeError` as `messages`."""
        return {}

    def sums(self) -> Sums:
        """Return the sum of the clients' clipped differences, float64, by the layout's names; `TypeError` for models."""
        raise TypeError("clients sent models, not clipped differences")


@dataclass(frozen=True)
class NoUpdates(Updates):
    """The updates of a cohort without updates."""

    layout: Layout

    def messages(self) -> list[Message]:
        """Return none."""
        return []

    def sums(self) -> Sums:
        """Return zeros."""
        return {name: np.zeros(shape) for name, shape in self.layout.shapes.items()}


@dataclass(frozen=True)
class Collected:
    """Result of a cohort's training.

    Attributes:
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
        planned: The event of the release that is planned for each client, where clients release their updates.
    """

    grid: CohortGrid
    requests: list[Message]
    model: ArrayRecord
    layout: Layout
    charge: Callable[[Sequence[int]], None]
    timeout: float
    planned: Mapping[int, Event] = field(default_factory=dict)

    @property
    def planned_by_node(self) -> dict[int, Event]:
        """The planned events, by node."""
        return {node: self.planned[c] for c, node in self.grid.nodes.items() if c in self.planned}


class Aggregator(ABC):
    """Trains a cohort and collects its updates.

    Attributes:
        secure: Whether secure aggregation sums updates. Clients then never repeat a round that they have begun, keep
            their events to themselves, and a round may have no sum.
    """

    secure: ClassVar[bool] = False

    @abstractmethod
    def collect(self, ask: Ask) -> Collected:
        """Train the cohort."""

    def report(self) -> dict[str, Any]:
        """Return the manifest's entry on secure aggregation; empty without it."""
        return {}
