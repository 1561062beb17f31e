"""Reads clients' replies: each is parsed once, by a schema, into typed values, or is that client's failure with its reason.

A client may send anything. What is not of the schema raises `ValueError`, with a reason of at most 300 printable
characters (`fedsim.errors.printable`), and nothing else; nothing larger than the expected values is allocated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedsim.arrays import checked_values
from fedsim.errors import printable
from fedsim.layout import Expected
from fedsim.messages import LEDGER
from fedsim.records import records_in
from fedsim.sections import FaultsSection

LATE = "did not answer in time"  # reason for failure of a client without a reply
AWAY = "is away"  # of an offline client
NOT_FINITE = "sent NaN or infinity"  # begins the reason of a client whose model diverged, or that injects NaN
TOO_LARGE = "sent a number beyond"  # begins the reason of a client whose model diverged
DIVERGED = (NOT_FINITE, TOO_LARGE)

MOST_WEIGHT = 1e38  # absolute value of an array's numbers: float32 holds the sum of a few
MOST_METRIC = 1e100  # of a metric's: float64 holds its products with numbers of examples, and their sums
MOST_EXAMPLES = 2**53  # float64 holds every integer up to it
MOST_METRICS = 100  # in a reply
MOST_NAME = 100  # characters of a metric's name
SAME = 1e-9  # relative difference of an event's numbers: machines calibrate noise with other last bits

Records = Mapping[str, Expected]  # the arrays of a reply, by record
Metrics = dict[str, int | float]


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
    metrics: Metrics


@contextmanager
def refusing() -> Iterator[None]:
    """Turn whatever reading a client's reply raises into a `ValueError` with a printable reason."""
    try:
        yield
    except ValueError as error:
        raise ValueError(printable(str(error))) from None
    except Exception as error:  # foreign bytes raise exceptions of many classes
        raise ValueError(f"sent what can't be read ({type(error).__name__})") from None


def check_answer(message: Message) -> None:
    """Raise `ValueError` for a reply that is an error, with the client's reason."""
    if message.has_error():
        raise ValueError(message.error.reason or f"error {message.error.code}")


def read_update(message: Message, expected: Records, planned: str = "") -> Update:
    """Return the update in a train reply; its arrays are read-only.

    A valid reply holds exactly the expected arrays: names, shapes, dtypes, all numbers finite and at most `MOST_WEIGHT`;
    one record of metrics (`_read_metrics`) with `num-examples` above 0; and of a client that releases its update the
    event of the release, which says what the `planned` one does (JSON; empty: none is planned).

    Raises:
        ValueError: The reply is invalid, or an error.
    """
    with refusing():
        check_answer(message)
        _check_ledger(message, planned)
        sent = records_in(message.content, ArrayRecord)
        reports = records_in(message.content, MetricRecord)
        if len(sent) != len(expected) or len(reports) != 1:
            wanted = "one of each" if len(expected) == 1 else f"{len(expected)} and one"
            raise ValueError(
                f"sent {len(sent)} array records and {len(reports)} metric records, not {wanted}"
            )
        if sent.keys() != expected.keys():
            raise ValueError(f"sent other records than were asked for: {_odd(sent, expected)}")
        records = {name: _read_arrays(sent[name], arrays) for name, arrays in expected.items()}
        (record,) = reports.values()
        metrics = _read_metrics(record)
        if not 0 < metrics.get("num-examples", 0) <= MOST_EXAMPLES:
            raise ValueError("reported no num-examples above 0")
        return Update(records, metrics)


def read_scores(message: Message, names: Collection[str]) -> Metrics | None:
    """Return the metrics of a reply to an evaluation, `names` and the loss among them; None: the client has no examples.

    Raises:
        ValueError: The reply is invalid, or an error.
    """
    with refusing():
        check_answer(message)
        reports = records_in(message.content, MetricRecord)
        if len(reports) != 1 or len(message.content) != 1:
            raise ValueError(f"sent {len(message.content)} records, not one of metrics")
        (record,) = reports.values()
        metrics = _read_metrics(record)
        examples = metrics.get("num-examples", -1)
        if examples == 0:
            return None
        if not 0 < examples <= MOST_EXAMPLES:
            raise ValueError("reported no num-examples of at least 0")
        for name in (*names, "loss"):
            if name not in metrics:
                raise ValueError(f"reported no {name}")
        return metrics


def read_identity(message: Message, clients: int) -> int:
    """Return the client, from 0 to `clients` - 1, that a reply to the query names.

    Raises:
        ValueError: The reply is invalid, or an error.
    """
    with refusing():
        check_answer(message)
        identity = message.content.get("identity")
        client = identity.get("client") if isinstance(identity, ConfigRecord) else None
        if type(client) is not int:
            raise ValueError("has not said which client it is")
        if not 0 <= client < clients:
            raise ValueError(f"claims to be client {client} of {clients}")
        return client


def in_common(metrics: Collection[Metrics]) -> list[MetricRecord]:
    """Return clients' metrics without those that not all report: a strategy's means are of all clients."""
    common = set.intersection(*(set(some) for some in metrics)) if metrics else set()
    return [MetricRecord({name: some[name] for name in some if name in common}) for some in metrics]


def _read_metrics(record: MetricRecord) -> Metrics:
    """Return at most `MOST_METRICS` metrics, finite and at most `MOST_METRIC` in absolute value, by printable names."""
    if len(record) > MOST_METRICS:
        raise ValueError(f"reported {len(record)} metrics, not at most {MOST_METRICS}")
    metrics: Metrics = {}
    for name, value in record.items():
        if len(name) > MOST_NAME or not name.isprintable():
            raise ValueError(f"reported a metric with the name {name[:MOST_NAME]}")
        if isinstance(value, list):
            raise ValueError(f"reported {name} = {value[:8]}")
        if not math.isfinite(value):
            raise ValueError(f"{NOT_FINITE} as {name}")
        if abs(value) > MOST_METRIC:
            raise ValueError(f"{TOO_LARGE} {MOST_METRIC:g} as {name}")
        metrics[name] = value
    return metrics


def _read_arrays(sent: ArrayRecord, expected: Expected) -> dict[str, NDArray[Any]]:
    if sent.keys() != expected.keys():
        raise ValueError(f"sent other arrays than the model has: {_odd(sent, expected)}")
    arrays = {}
    for name, (shape, dtype) in expected.items():
        try:
            arrays[name] = checked_values(sent[name], shape, dtype)
        except ValueError as error:
            raise ValueError(f"sent {name} {error}") from None
        _check_numbers(name, arrays[name])
    return arrays


def _check_numbers(name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind not in "iuf" or not array.size:
        return
    least, most = float(array.min()), float(array.max())  # NaN, if any number is
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(f"{NOT_FINITE} in {name}")
    if max(-least, most) > MOST_WEIGHT:
        raise ValueError(f"{TOO_LARGE} {MOST_WEIGHT:g} in {name}")


def _odd(sent: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return the first three names that only one of the two has."""
    return ", ".join(sorted(name[:MOST_NAME] for name in sent.keys() ^ expected.keys())[:3])


def _check_ledger(message: Message, planned: str) -> None:
    """Raise `ValueError` unless the only record of settings holds the planned event, or nothing if none is planned."""
    settings = records_in(message.content, ConfigRecord)
    if not settings and not planned:
        return
    ledger = settings.get(LEDGER)
    if not planned or ledger is None or len(settings) != 1:
        wanted = f"one, {LEDGER!r}" if planned else "none"
        raise ValueError(f"sent {len(settings)} records of settings, not {wanted}")
    events = ledger.get("events")
    if not isinstance(events, list) or len(events) != 1 or not _says(events[0], planned):
        raise ValueError("the event of its release is not the planned one")


def _says(text: Any, planned: str) -> bool:
    """Return whether a client's JSON text says the same as another; a longer one isn't read."""
    if not isinstance(text, str) or len(text) > 2 * len(planned) + 64:
        return False
    try:
        return _alike(json.loads(text), json.loads(planned))
    except (ValueError, RecursionError):
        return False


def _alike(sent: Any, planned: Any) -> bool:
    """Return whether two JSON values are the same, but for the last bits of their numbers."""
    if type(sent) is not type(planned):
        return False
    if isinstance(planned, dict):
        return sent.keys() == planned.keys() and all(_alike(sent[key], planned[key]) for key in planned)
    if isinstance(planned, list):
        return len(sent) == len(planned) and all(map(_alike, sent, planned))
    if isinstance(planned, float):
        return math.isclose(sent, planned, rel_tol=SAME)
    return bool(sent == planned)
