"""Reads clients' replies: valid updates, or failures with their reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedsim.arrays import values_of
from fedsim.experiment import Experiment
from fedsim.layout import Expected
from fedsim.mechanisms import loads
from fedsim.privacy.events import Event
from fedsim.records import find_record, records_in
from fedsim.sections import FaultsSection

LATE = "did not answer in time"  # reason for failure of a client without a reply
AWAY = "is away"  # of an offline client
NOT_FINITE = "sent NaN or infinity"  # begins the reason of a client whose model diverged, or that injects NaN

Records = Mapping[str, Expected]  # the arrays of a reply, by record


def own_mechanism(experiment: Experiment) -> str:
    """Return the reference of the user's own mechanism; empty: the run's mechanism is fedsim's."""
    return "" if experiment.privacy.own is None else experiment.privacy.own.use


def metrics_of(reply: Message) -> MetricRecord:
    """Return the metrics of a reply with a metric record."""
    return next(iter(records_in(reply.content, MetricRecord).values()))


def is_injected(reason: str, faults: FaultsSection) -> bool:
    """Return whether a client failed by an injected fault: such a reason names its key, but for NaN's, which looks real."""
    return "(faults." in reason or (faults.nan > 0 and reason.startswith(NOT_FINITE))


@dataclass(frozen=True)
class Update:
    """One client's arrays, by record, and its metrics."""

    records: dict[str, dict[str, NDArray[Any]]]
    metrics: Mapping[str, Any]


def events_of(message: Message, own: str = "") -> list[Event]:
    """Return the privacy events in a reply, of a user's `own` mechanism or fedsim's; none if it has no content."""
    ledger = find_record(message.content, ConfigRecord, "ledger") if message.has_content() else None
    return [] if ledger is None else [loads(str(text), own) for text in ledger["events"]]  # type: ignore[union-attr]


def read_update(message: Message, expected: Records) -> Update:
    """Return the update in a train reply; its arrays are read-only.

    A valid reply holds exactly the expected arrays (names, shapes, dtypes, all values finite), and one record of finite
    metrics with a positive `num-examples`.

    Raises:
        ValueError: The reply is invalid, or an error.
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
        if isinstance(value, list):
            raise ValueError(f"reported {name} = {value}")
        if not math.isfinite(value):
            raise ValueError(f"{NOT_FINITE} as {name}")
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
            raise ValueError(f"{NOT_FINITE} in {name}")
    return arrays
