"""An algorithm's fields on a client: the server's values, and the values that the client keeps in its state.

A client's change of a kept field is pending until a later message confirms that it was in its round's sum. Then the
change is added to the value. So the server's mean of all changes stays the mean of all values, even with dropouts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from fedsim.algorithms.protocol import Algorithm, Arrays, Fields
from fedsim.arrays import arrays_in, record_of
from fedsim.layout import Layout
from fedsim.records import config_in, find_record, record_in

PENDING = "pending"  # record of a client's state: the round of the pending changes


def received_fields(content: RecordDict, layout: Layout) -> Fields:
    """Return the fields of a message, read-only.

    Raises:
        ValueError: A field is missing, or does not fit the layout.
    """
    fields = {name: _read_only(arrays_in(record_in(content, ArrayRecord, name))) for name in layout.fields}
    if odd := layout.mismatch(fields):
        raise ValueError(f"the message's fields don't fit this algorithm: {odd}")
    return fields


def own_values(context: Context, algorithm: Algorithm, first: Fields) -> Fields:
    """Return a client's values of its kept fields, read-only; before its first change, the run's initial values."""
    values = {}
    for name, field in algorithm.fields.items():
        if field.kept:
            kept = find_record(context.state, ArrayRecord, f"kept-{name}")
            values[name] = _read_only(first[name] if kept is None else arrays_in(kept))
    return values


def checked_changes(changes: Fields, algorithm: Algorithm, layout: Layout) -> Fields:
    """Return copies of the changes that an algorithm's training returned, which may be views of the model.

    Raises:
        ValueError: The changes don't fit the layout.
    """
    if odd := layout.mismatch(changes):
        raise ValueError(f"algorithm {type(algorithm).__name__}: train(): {odd}")
    return {
        field: {n: np.array(a, order="C") for n, a in arrays.items()} for field, arrays in changes.items()
    }


def settle(context: Context, algorithm: Algorithm, first: Fields, in_sum: int) -> None:
    """Add pending changes to a client's kept values if they were in a sum, else discard them.

    Args:
        context: The client's.
        algorithm: Names the kept fields.
        first: The fields before the first round.
        in_sum: The last round with this client's changes in its sum, from the server; 0: none.
    """
    round_ = config_in(context.state, PENDING).get("round")
    confirmed = round_ is not None and round_ == in_sum
    for name, old in own_values(context, algorithm, first).items():
        pending = context.state.pop(_pending(name), None)
        if confirmed and isinstance(pending, ArrayRecord):
            change = arrays_in(pending)
            context.state[f"kept-{name}"] = record_of({key: old[key] + change[key] for key in old})
    context.state.pop(PENDING, None)


def note_sent(context: Context, algorithm: Algorithm, changes: Mapping[str, Arrays], round_: int) -> None:
    """Store the sent changes of kept fields as pending."""
    kept = [name for name, field in algorithm.fields.items() if field.kept]
    for name in kept:
        context.state[_pending(name)] = record_of(dict(changes[name]))
    if kept:
        context.state[PENDING] = ConfigRecord({"round": round_})


def _pending(name: str) -> str:
    return f"{PENDING}-{name}"


def _read_only(arrays: Arrays) -> Arrays:
    """Return read-only views, since clients may share the memory."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views
