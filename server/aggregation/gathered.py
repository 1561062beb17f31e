"""Aggregation for strategies that need each update, not only the weighted mean."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Message

from fedsim.privacy.events import Event
from fedsim.server.aggregation.replies import LATE, Update, events_of, metrics_of, read_update
from fedsim.server.aggregation.updates import Aggregator, Ask, Collected, Updates


class Each(Updates):
    """Individual updates, in the order of the clients."""

    def __init__(self, messages: list[Message]) -> None:
        self.count = len(messages)
        self._messages = messages

    def messages(self) -> list[Message]:
        """Return the updates."""
        return self._messages


def gather(ask: Ask, own: str = "") -> tuple[dict[int, tuple[Update, Message]], dict[int, str], list[Event]]:
    """Train a cohort, and return each update; `own` is the reference of a user's own mechanism.

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


@dataclass(frozen=True, kw_only=True)
class Gathered(Aggregator):
    """Passes each update to the strategy, as a message with its weight: 1, if `uniform`, or its number of examples."""

    uniform: bool
    own: str = ""

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort. As `Aggregator` says."""
        ask.charge(ask.grid.clients)
        updates, failures, events = gather(ask, self.own)
        messages = [message for _, message in updates.values()]
        if self.uniform:
            for message in messages:
                metrics_of(message)["num-examples"] = 1
        return Collected(Each(messages), failures, events)
