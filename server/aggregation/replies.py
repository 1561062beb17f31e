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
from fedsim.mechanisms import loads
from fedsim.privacy.events import Event
from fedsim.privacy.vectors import dimension_of
from fedsim.records import find_record, records_in
from fedsim.vectors import CLIPPED

LATE = "did not answer in time"  # what is said of a client whose reply is not there
AWAY = "is away"  # and of one that could not be asked

Expected = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]  # shape and dtype of each array of the model


def metrics_of(reply: Message) -> MetricRecord:
    """Return the metrics of a reply that has some."""
    return next(iter(records_in(reply.content, MetricRecord).values()))


def expected_of(model: ArrayRecord) -> Expected:
    """Return what an update of a model must be like."""
    return {name: (tuple(array.shape), np.dtype(array.dtype)) for name, array in model.items()}


def expected_vector(model: ArrayRecord) -> Expected:
    """Return what a clipped update of a model must be like: all of it one vector, in the widest dtype."""
    shapes, dtypes = zip(*expected_of(model).values(), strict=True)
    return {CLIPPED: ((dimension_of(shapes),), np.result_type(*dtypes))}


@dataclass(frozen=True)
class Update:
    """One client's model after training, and what it reported."""

    arrays: dict[str, NDArray[Any]]
    metrics: Mapping[str, Any]


def events_of(message: Message, own: str = "") -> list[Event]:
    """Return the privacy events that a reply brings of what it releases; none where it brings no content.

    Args:
        message: The reply.
        own: Reference of the run's mechanism, where it is a user's own.
    """
    ledger = find_record(message.content, ConfigRecord, "ledger") if message.has_content() else None
    return [] if ledger is None else [loads(str(text), own) for text in ledger["events"]]  # type: ignore[union-attr]


def read_update(message: Message, expected: Expected) -> Update:
    """Return the update that a train reply holds; its arrays are to read only.

    Raises:
        ValueError: The client has failed: it answered with an error, or sent anything but arrays with the
            model's names, shapes and dtypes, finite everywhere, and finite metrics with a positive
            `num-examples`. The message says which.
    """
    if message.has_error():
        raise ValueError(message.error.reason or f"error {message.error.code}")
    models = records_in(message.content, ArrayRecord)
    reports = records_in(message.content, MetricRecord)
    if len(models) != 1 or len(reports) != 1:
        raise ValueError(
            f"sent {len(models)} array records and {len(reports)} metric records, not one of each"
        )
    (sent,), (metrics,) = models.values(), reports.values()
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
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise ValueError(f"reported {name} = {value}")
    if not float(metrics.get("num-examples", 0)) > 0:  # type: ignore[arg-type]
        raise ValueError("reported no num-examples above 0")
    return Update(arrays, dict(metrics))
