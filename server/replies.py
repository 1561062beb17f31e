"""What came back from the clients: updates that can be used, and failures with their reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from server.cohort_grid import CohortGrid


@dataclass(frozen=True)
class Update:
    """One client's model after training, with what it reported."""

    arrays: dict[str, NDArray[Any]]
    metrics: Mapping[str, Any]
    message: Message


@dataclass(frozen=True)
class Replies:
    """The replies of one round, by client."""

    updates: dict[int, Update]
    failures: dict[int, str]


def read(messages: Iterable[Message], grid: CohortGrid, cohort: Sequence[int], model: ArrayRecord) -> Replies:
    """Sort train replies into updates and failures.

    A client has failed if it did not answer in time, answered with an error, or sent anything but arrays with
    the model's names, shapes and dtypes, finite everywhere, and finite metrics with a positive `num-examples`.
    """
    expected = {name: (tuple(array.shape), array.dtype) for name, array in model.items()}
    updates: dict[int, Update] = {}
    failures = dict.fromkeys(cohort, "did not answer in time")
    for message in messages:
        client = grid.client(message.metadata.src_node_id)
        try:
            updates[client] = _update(message, expected)
            del failures[client]
        except ValueError as error:
            failures[client] = str(error)
    return Replies(dict(sorted(updates.items())), dict(sorted(failures.items())))


def _update(message: Message, expected: dict[str, tuple[tuple[int, ...], str]]) -> Update:
    if message.has_error():
        raise ValueError(message.error.reason or f"error {message.error.code}")
    records = message.content
    if len(records.array_records) != 1 or len(records.metric_records) != 1:
        raise ValueError(
            f"sent {len(records.array_records)} array records and {len(records.metric_records)} metric records, "
            "not one of each"
        )
    (sent,), (metrics,) = records.array_records.values(), records.metric_records.values()
    if set(sent) != set(expected):
        odd = sorted(set(sent) ^ set(expected))
        raise ValueError(f"sent other arrays than the model has: {', '.join(odd[:3])}")
    arrays = {name: sent[name].numpy() for name in expected}
    for name, array in arrays.items():
        shape, dtype = expected[name]
        if array.shape != shape:
            raise ValueError(f"sent {name} with shape {array.shape}, not {shape}")
        if str(array.dtype) != dtype:
            raise ValueError(f"sent {name} as {array.dtype}, not {dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"sent NaN or infinity in {name}")
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise ValueError(f"reported {name} = {value}")
    if not float(metrics.get("num-examples", 0)) > 0:  # type: ignore[arg-type]
        raise ValueError("reported no num-examples above 0")
    return Update(arrays, dict(metrics), message)
