"""What came back from the clients: updates that can be used, and failures with their reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedsim.arrays import values_of
from fedsim.layout import Expected
from fedsim.mechanisms import loads
from fedsim.privacy.events import Event
from fedsim.records import find_record, records_in

LATE = "did not answer in time"  # what is said of a client whose reply is not there
AWAY = "is away"  # and of one that could not be asked

Records = Mapping[str, Expected]  # what a reply holds, by the names of its records


def metrics_of(reply: Message) -> MetricRecord:
    """Return the metrics of a reply that has some."""
    return next(iter(records_in(reply.content, MetricRecord).values()))


@dataclass(frozen=True)
class Update:
    """What one client sent, by record, and what it reported."""

    records: dict[str, dict[str, NDArray[Any]]]
    metrics: Mapping[str, Any]


def events_of(message: Message, own: str = "") -> list[Event]:
    """Return the privacy events that a reply brings of what it releases; none where it brings no content.

    Args:
        message: The reply.
        own: Reference of the run's mechanism, where it is a user's own.
    """
    ledger = find_record(message.content, ConfigRecord, "ledger") if message.has_content() else None
    return [] if ledger is None else [loads(str(text), own) for text in ledger["events"]]  # type: ignore[union-attr]


def read_update(message: Message, expected: Records) -> Update:
    """Return the update that a train reply holds; its arrays are to read only.

    Raises:
        ValueError: The client has failed: it answered with an error, or sent anything but the expected records of
            arrays, by names, shapes and dtypes, finite everywhere, and one record of finite metrics with a positive
            `num-examples`. The message says which.
    """
    if message.has_error():
        raise ValueError(message.error.reason or f"error {message.error.code}")
    sent = records_in(message.content, ArrayRecord)
    reports = records_in(message.content, MetricRecord)
    if len(sent) != len(expected) or len(reports) != 1:
        wanted = "one of each" if len(expected) == 1 else f"{len(expected)} and one"
        raise ValueError(f"sent {len(sent)} array records and {len(reports)} metric records, not {wanted}")
    if sent.keys() != expected.keys():
        odd = sorted(sent.keys() ^ expected.keys())
        raise ValueError(f"sent other records than were asked for: {', '.join(odd[:3])}")
    records = {name: _read_arrays(sent[name], arrays) for name, arrays in expected.items()}
    (metrics,) = reports.values()
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise ValueError(f"reported {name} = {value}")
    if not float(metrics.get("num-examples", 0)) > 0:  # type: ignore[arg-type]
        raise ValueError("reported no num-examples above 0")
    return Update(records, dict(metrics))


def _read_arrays(sent: ArrayRecord, expected: Expected) -> dict[str, NDArray[Any]]:
    if sent.keys() != expected.keys():
        odd = sorted(sent.keys() ^ expected.keys())
        raise ValueError(f"sent other arrays than the model has: {', '.join(odd[:3])}")
    arrays = {name: values_of(sent[name]) for name in expected}
    for name, array in arrays.items():
        shape, dtype = expected[name]
        if array.shape != shape:
            raise ValueError(f"sent {name} with shape {array.shape}, not {shape}")
        if array.dtype != dtype:
            raise ValueError(f"sent {name} as {array.dtype}, not {dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"sent NaN or infinity in {name}")
    return arrays
