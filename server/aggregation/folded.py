"""Updates added up as they come: a linear strategy needs no more than their weighted mean."""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord, Message

from fedsim.privacy.server_half import Sums
from fedsim.server.aggregation.fold import Total, WeightedSum
from fedsim.server.aggregation.replies import LATE, Expected, expected_of, expected_vector
from fedsim.server.aggregation.updates import Ask, Collected, NoUpdates, Updates
from fedsim.vectors import CLIPPED, split


class WeightedMean(Updates):
    """The weighted mean of models."""

    def __init__(self, total: Total, expected: Expected, request: Message) -> None:
        self.count = len(total.nodes)
        self.reported = total.means
        self._total = total
        self._expected = expected
        self._request = request

    def messages(self) -> list[Message]:
        """Return one message that stands for all."""
        return [Message(self._total.content(self._expected), reply_to=self._request)]

    def sums(self, model: ArrayRecord) -> Sums:
        """Raise `TypeError`: there are no differences."""
        raise TypeError("clients sent models, whose differences nobody has clipped")


class ClippedSum(Updates):
    """The sum of clipped differences."""

    def __init__(self, total: Total) -> None:
        self.count = len(total.nodes)
        self.reported = total.means
        self._total = total

    def messages(self) -> list[Message]:
        """Raise `TypeError`: without noise they are not for the strategy."""
        raise TypeError("clipped differences are for a mechanism to noise")

    def sums(self, model: ArrayRecord) -> Sums:
        """Return the sum, by the model's names."""
        return split(self._total.arrays[CLIPPED], model)


class Folded:
    """Adds up what clients send, where it is (`fedsim.server.aggregation.fold`).

    Args:
        uniform: Whether all updates weigh 1, or as much as their numbers of examples.
        clipped: Whether clients send clipped differences, or models.
        own: Reference of the run's mechanism, where it is a user's own.
    """

    secure = False

    def __init__(self, *, uniform: bool, clipped: bool, own: str = "") -> None:
        self._own = own
        self._uniform = uniform
        self._clipped = clipped

    def collect(self, ask: Ask) -> Collected:
        """Have the cohort train. As `Aggregator` says."""
        ask.charge(ask.grid.clients)
        expected = expected_vector(ask.model) if self._clipped else expected_of(ask.model)
        fold = WeightedSum(expected, uniform=self._uniform, own=self._own)
        total = ask.grid.send_and_fold(ask.requests, fold, timeout=ask.timeout) or Total()
        came = {ask.grid.client(node) for node in total.nodes}
        failures = {ask.grid.client(node): why for node, why in total.failures.items()}
        return Collected(
            self._updates(total, expected, ask.requests[0]) if came else NoUpdates(),
            {client: failures.get(client, LATE) for client in ask.grid.clients if client not in came},
            total.events,
        )

    def report(self) -> dict[str, Any]:
        """Return nothing: updates come in clear."""
        return {}

    def _updates(self, total: Total, expected: Expected, request: Message) -> Updates:
        return ClippedSum(total) if self._clipped else WeightedMean(total, expected, request)
