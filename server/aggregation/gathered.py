"""Each update brought to the strategy, for one that needs more than their weighted mean."""

from __future__ import annotations

from typing import Any

from flwr.app import Message

from fedsim.algorithms.protocol import Fields
from fedsim.privacy.events import Event
from fedsim.privacy.server_half import Sums
from fedsim.server.aggregation.replies import LATE, Update, events_of, metrics_of, read_update
from fedsim.server.aggregation.updates import Ask, Collected, Updates


class Each(Updates):
    """Every update by itself."""

    def __init__(self, messages: list[Message]) -> None:
        self.count = len(messages)
        self.reported, self.reported_sums = {}, {}
        self._messages = messages

    def messages(self) -> list[Message]:
        """Return the updates, in the order of their clients."""
        return self._messages

    def changes(self) -> Fields:
        """Return none: no algorithm sends fields to such a strategy."""
        return {}

    def sums(self) -> Sums:
        """Raise `TypeError`: the strategy wants each."""
        raise TypeError("the strategy needs each update, and no sum")


def gather(ask: Ask, own: str = "") -> tuple[dict[int, tuple[Update, Message]], dict[int, str], list[Event]]:
    """Have a cohort train, and bring each update.

    Args:
        ask: What the cohort is asked.
        own: Reference of the run's mechanism, where it is a user's own.

    Returns:
        The updates with their messages, and why there is none, by client in ascending order; and what the clients say that
        they released.
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
    """Brings each update to the strategy, as a message with the weight that it is to have.

    Args:
        uniform: Whether all updates weigh 1, or as much as their numbers of examples.
        own: Reference of the run's mechanism, where it is a user's own.
    """

    secure = False

    def __init__(self, *, uniform: bool, own: str = "") -> None:
        self._own = own
        self._uniform = uniform

    def collect(self, ask: Ask) -> Collected:
        """Have the cohort train. As `Aggregator` says."""
        ask.charge(ask.grid.clients)
        updates, failures, events = gather(ask, self._own)
        messages = [message for _, message in updates.values()]
        if self._uniform:
            for message in messages:
                metrics_of(message)["num-examples"] = 1
        return Collected(Each(messages), failures, events)

    def report(self) -> dict[str, Any]:
        """Return nothing: updates come in clear."""
        return {}
