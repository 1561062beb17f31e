"""A cohort's updates: one message for all of them or one for each, or their sum, for a mechanism to noise."""

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
from fedsim.privacy.server_half import Sums
from fedsim.server.grids.cohort import CohortGrid


class Updates(ABC):
    """The updates of a round that count.

    Attributes:
        count: How many there are.
        reported: Means of the clients' metrics, by name.
        reported_sums: Their sums, each client counted as in the means.
    """

    count: int = 0
    reported: Mapping[str, float]
    reported_sums: Mapping[str, float]

    @abstractmethod
    def messages(self) -> list[Message]:
        """Return what the strategy aggregates, in the order of the clients."""

    @abstractmethod
    def changes(self) -> Fields:
        """Return the means of the changes of an algorithm's fields, float64, each client counted the same.

        Raises:
            TypeError: Clients sent clipped differences.
        """

    @abstractmethod
    def sums(self) -> Sums:
        """Return the sum of the clipped differences that clients sent, float64, by the layout's names.

        Raises:
            TypeError: Clients sent models.
        """


class NoUpdates(Updates):
    """The updates of a cohort without clients.

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
    """What a cohort's training gave.

    Attributes:
        updates: That count.
        failures: Why a client's update is not among them, by client.
        events: What the clients say that they released, whether or not it could be used.
        no_sum: Why those of the others count for nothing; empty: they count.
        columns: What else the round's row says.
    """

    updates: Updates
    failures: dict[int, str] = field(default_factory=dict)
    events: Sequence[Event] = ()
    no_sum: str = ""
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """A line for each client that has failed, and one for the sum if it has."""
        lines = [f"client {client}: {why}" for client, why in self.failures.items()]
        return [*lines, f"no sum: {self.no_sum}"] if self.no_sum else lines


@dataclass(frozen=True)
class Ask:
    """What a cohort is asked.

    Attributes:
        grid: The cohort's.
        requests: One message to each client, in their order.
        model: That they are sent.
        layout: Of an update.
        charge: Called with the clients that are about to train, before they are asked to.
        timeout: Seconds to wait.
    """

    grid: CohortGrid
    requests: list[Message]
    model: ArrayRecord
    layout: Layout
    charge: Callable[[Sequence[int]], None]
    timeout: float


class Aggregator(Protocol):
    """Has a cohort train, and collects its updates.

    Attributes:
        secure: Whether updates are summed by secure aggregation: clients can't take a round back that they have begun,
            their events stay with them, and a round may be without a sum.
    """

    @property
    def secure(self) -> bool:
        """As said."""

    def collect(self, ask: Ask) -> Collected:
        """Have the cohort train."""

    def report(self) -> dict[str, Any]:
        """Return what the manifest says of the protection; nothing where there is none."""
