"""Sums updates by secure aggregation: the server learns the weighted mean, and no single update."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from flwr.app import Message

from fedsim.algorithms.protocol import Arrays, Fields
from fedsim.privacy.halves import Sums
from fedsim.privacy.secagg.encoding import Decoded
from fedsim.server.aggregation.secure_grid import SecureGrid, mean_of
from fedsim.server.aggregation.updates import Ask, Collected, NoUpdates, Updates
from fedsim.vectors import plus


class SecureMean(Updates):
    """The weighted mean decoded from the protocol's sum."""

    def __init__(self, decoded: Decoded, ask: Ask) -> None:
        self.count = decoded.clients
        self.reported, self.reported_sums = decoded.metrics, decoded.metric_totals
        self._decoded = decoded
        self._ask = ask

    def messages(self) -> list[Message]:
        """Return one message with the mean."""
        update, _ = self._mean
        content = mean_of(plus(self._ask.model, update), self._decoded)
        return [Message(content, reply_to=self._ask.requests[0])]

    def changes(self) -> Fields:
        """Return the means of the fields' changes."""
        _, changes = self._mean
        return changes

    def sums(self) -> Sums:
        """Return the sum of the differences, by the layout's names."""
        return self._ask.layout.split(self._decoded.total)

    @cached_property
    def _mean(self) -> tuple[Arrays, Fields]:
        layout = self._ask.layout
        return layout.separate(layout.split(self._decoded.update))


class Secure:
    """Trains a cohort with secure aggregation. If there is no sum, all clients have failed, and the run continues.

    Args:
        grid: Runs the protocol.
        described: The manifest's entry.
    """

    secure = True

    def __init__(self, grid: SecureGrid, described: dict[str, Any]) -> None:
        self._grid = grid
        self._described = described

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort. As `Aggregator` says."""
        result = self._grid.aggregate(ask.requests, timeout=ask.timeout, before_upload=ask.charge)
        columns: dict[str, Any] = {"secagg-bytes-up": result.bytes_up, "secagg-bytes-down": result.bytes_down}
        if result.decoded is None:
            nothing = NoUpdates(ask.layout)
            return Collected(nothing, failures=result.lost, no_sum=result.why, columns=columns)
        columns["secagg-clipped"] = result.clipped
        rest = sorted(set(ask.grid.clients) - set(result.summed))
        failures = {client: result.lost.get(client, "lost too many neighbours") for client in rest}
        return Collected(SecureMean(result.decoded, ask), failures, columns=columns)

    def report(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return self._described
