"""Aggregates updates for linear strategies, which need only the weighted mean."""

from __future__ import annotations

from typing import Any

from flwr.app import Message

from fedsim.algorithms.protocol import Fields
from fedsim.layout import Layout
from fedsim.messages import VECTOR
from fedsim.privacy.halves import Sums
from fedsim.server.aggregation.fold import Total, WeightedSum
from fedsim.server.aggregation.replies import LATE
from fedsim.server.aggregation.updates import Ask, Collected, NoUpdates, Updates


class WeightedMean(Updates):
    """The weighted mean of models, and the means of the fields' changes."""

    def __init__(self, total: Total, layout: Layout, request: Message) -> None:
        self.count = len(total.nodes)
        self.reported, self.reported_sums = total.means, total.metrics
        self._total = total
        self._layout = layout
        self._request = request

    def messages(self) -> list[Message]:
        """Return one message with the mean."""
        return [Message(self._total.content(self._layout.model), reply_to=self._request)]

    def changes(self) -> Fields:
        """Return the sums, divided by the count."""
        return {
            field: {name: total / self.count for name, total in self._total.records[field].items()}
            for field in self._layout.fields
        }

    def sums(self) -> Sums:
        """Raise `TypeError`: there are no clipped differences."""
        raise TypeError("clients sent models, not clipped differences")


class ClippedSum(Updates):
    """The sum of clipped differences."""

    def __init__(self, total: Total, layout: Layout) -> None:
        self.count = len(total.nodes)
        self.reported, self.reported_sums = total.means, total.metrics
        self._total = total
        self._layout = layout

    def messages(self) -> list[Message]:
        """Raise `TypeError`: the mechanism must noise the sum first."""
        raise TypeError("a sum of clipped differences must be noised first")

    def changes(self) -> Fields:
        """Raise `TypeError`: the mechanism must noise the sum first."""
        raise TypeError("a sum of clipped differences must be noised first")

    def sums(self) -> Sums:
        """Return the sum, by the layout's names."""
        return self._layout.split(self._total.records[VECTOR][VECTOR])


class Folded:
    """Sums updates in the engine (`fedsim.server.aggregation.fold`).

    Args:
        uniform: Whether each update has weight 1, else its number of examples.
        clipped: Whether clients send clipped differences, else models.
        own: Reference of the run's mechanism, if it is a user's own.
    """

    secure = False

    def __init__(self, *, uniform: bool, clipped: bool, own: str = "") -> None:
        self._own = own
        self._uniform = uniform
        self._clipped = clipped

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort. As `Aggregator` says."""
        ask.charge(ask.grid.clients)
        expected = ask.layout.vector if self._clipped else ask.layout.records
        fold = WeightedSum(expected, uniform=self._uniform, own=self._own)
        total = ask.grid.send_and_fold(ask.requests, fold, timeout=ask.timeout) or Total()
        arrived = {ask.grid.client(node) for node in total.nodes}
        failures = {ask.grid.client(node): why for node, why in total.failures.items()}
        return Collected(
            self._updates(total, ask) if arrived else NoUpdates(ask.layout),
            {client: failures.get(client, LATE) for client in ask.grid.clients if client not in arrived},
            total.events,
        )

    def report(self) -> dict[str, Any]:
        """Return an empty report: updates arrive in clear."""
        return {}

    def _updates(self, total: Total, ask: Ask) -> Updates:
        if self._clipped:
            return ClippedSum(total, ask.layout)
        return WeightedMean(total, ask.layout, ask.requests[0])
