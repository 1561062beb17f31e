"""Aggregation for strategies that need each update, not only the weighted mean."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Message, RecordDict

from fedsim.arrays import record_of
from fedsim.messages import METRICS
from fedsim.privacy.events import Event
from fedsim.server.aggregation.replies import LATE, Update, in_common, metrics_of, read_update
from fedsim.server.aggregation.updates import Aggregator, Ask, Collected, Updates


class Each(Updates):
    """Individual updates, in the order of the clients."""

    def __init__(self, messages: list[Message]) -> None:
        self.count = len(messages)
        self._messages = messages

    def messages(self) -> list[Message]:
        """Return the updates."""
        return self._messages


def gather(ask: Ask) -> tuple[dict[int, tuple[Update, Message]], dict[int, str], list[Event]]:
    """Train a cohort, and return each update.

    Returns:
        Updates with their messages, of which the content is what was read, with the metrics that all report, by
        client in ascending order; reasons for failure, by client; and the clients'
        privacy events.
    """
    updates: dict[int, tuple[Update, Message]] = {}
    events: dict[int, Event] = {}
    failures = dict.fromkeys(ask.grid.clients, LATE)
    planned = ask.planned_by_node
    for message in ask.grid.send_and_receive(ask.requests, timeout=ask.timeout):
        node = message.metadata.src_node_id
        client = ask.grid.client(node)
        event = planned.get(node)
        if event is not None and message.has_content():  # it may hold a release
            events[client] = event
        try:
            text = "" if event is None else event.dumps()
            updates[client] = read_update(message, ask.layout.records, text), message
            failures.pop(client, None)
        except ValueError as error:
            failures[client] = str(error)
    metrics = in_common([update.metrics for update, _ in updates.values()])
    for (update, message), common in zip(updates.values(), metrics, strict=True):
        arrays = {name: record_of(values) for name, values in update.records.items()}
        message.content = RecordDict({**arrays, METRICS: common})
    return (
        {client: updates[client] for client in sorted(updates)},
        failures,
        [events[client] for client in sorted(events)],
    )


@dataclass(frozen=True, kw_only=True)
class Gathered(Aggregator):
    """Passes each update to the strategy, as a message with its weight: 1, if `uniform`, or its number of examples."""

    uniform: bool

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort. As `Aggregator` says."""
        ask.charge(ask.grid.clients)
        updates, failures, events = gather(ask)
        messages = [message for _, message in updates.values()]
        if self.uniform:
            for message in messages:
                metrics_of(message)["num-examples"] = 1
        return Collected(Each(messages), failures, events)
