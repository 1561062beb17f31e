"""Aggregation for strategies that need each update, not only the weighted mean."""

from __future__ import annotations

from typing import Any

from flwr.app import Message

from fedsim.algorithms.protocol import Fields
from fedsim.privacy.events import Event
from fedsim.privacy.halves import Sums
from fedsim.server.aggregation.replies import LATE, Update, events_of, metrics_of, read_update
from fedsim.server.aggregation.updates import Ask, Collected, Updates


class Each(Updates):
    """Individual updates."""

    def __init__(self, messages: list[Message]) -> None:
        self.count = len(messages)
        self.reported, self.reported_sums = {}, {}
        self._messages = messages

    def messages(self) -> list[Message]:
        """Return the updates, in the order of the clients."""
        return self._messages

    def changes(self) -> Fields:
        """Return no fields: algorithms with fields need linear strategies."""
        return {}

    def sums(self) -> Sums:
        """Raise `TypeError`: there is no sum."""
        raise TypeError("the strategy takes individual updates, not their sum")


def gather(ask: Ask, own: str = "") -> tuple[dict[int, tuple[Update, Message]], dict[int, str], list[Event]]:
    """Train a cohort, and return each update.

    Args:
        ask: The request to the cohort.
        own: Reference of the run's mechanism, if it is a user's own.

    Returns:
        Updates with their messages, by client in ascending order; reasons for failure, by client; and the clients'
        privacy events.
    """
    updates: dict[int, tuple[Update, Message]] = {}
    events: dict[int, list[Event]] = {}
    failures = dict.fromkeys(ask.grid.clients, LATE)
    for message in ask.grid.send_and_receive(ask.requests, timeout=ask.timeout):
        client = ask.grid.client(message.metadata.src_node_id)
        try:
            events[client] = events_of(message, own)
            updates[client] = read_update(message, ask.layout.records), message
            del failures[client]
        except ValueError as error:
            failures[client] = str(error)
    return (
        {client: updates[client] for client in sorted(updates)},
        failures,
        [event for client in sorted(events) for event in events[client]],
    )


class Gathered:
    """Passes each update to the strategy, as a message with its weight.

    Args:
        uniform: Whether each update has weight 1, else its number of examples.
        own: Reference of the run's mechanism, if it is a user's own.
    """

    secure = False

    def __init__(self, *, uniform: bool, own: str = "") -> None:
        self._own = own
        self._uniform = uniform

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort. As `Aggregator` says."""
        ask.charge(ask.grid.clients)
        updates, failures, events = gather(ask, self._own)
        messages = [message for _, message in updates.values()]
        if self._uniform:
            for message in messages:
                metrics_of(message)["num-examples"] = 1
        return Collected(Each(messages), failures, events)

    def report(self) -> dict[str, Any]:
        """Return an empty report: updates arrive in clear."""
        return {}
