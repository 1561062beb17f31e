"""An algorithm's fields on a client: what the server sent, and the values that the client keeps in its own state.

What a client sends of a field that it keeps is pending, with its round, until a later message confirms that this was in the
round's sum; then the value changes by it. So the server's mean of all changes is the mean of all values, whoever drops out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from fedsim.algorithms.protocol import Algorithm, Arrays, Fields
from fedsim.arrays import arrays_in, record_of
from fedsim.layout import Layout
from fedsim.records import config_in, find_record, record_in

PENDING = "pending"  # the record in a client's state that holds the round of the changes that are pending


def received_fields(content: RecordDict, layout: Layout) -> Fields:
    """Return the fields of a message, read-only.

    Raises:
        ValueError: One is missing, or not of the layout.
    """
    fields = {name: _to_read(arrays_in(record_in(content, ArrayRecord, name))) for name in layout.fields}
    if odd := layout.odd_in(fields):
        raise ValueError(f"the message's fields are not of this algorithm: {odd}")
    return fields


def own_values(context: Context, algorithm: Algorithm, first: Fields) -> Fields:
    """Return a client's values of the fields that it keeps, read-only; before it keeps any, the first ones of the run."""
    values = {}
    for name, field in algorithm.fields.items():
        if field.kept:
            kept = find_record(context.state, ArrayRecord, f"kept-{name}")
            values[name] = _to_read(first[name] if kept is None else arrays_in(kept))
    return values


def checked_changes(changes: Fields, algorithm: Algorithm, layout: Layout) -> Fields:
    """Return copies of the changes that an algorithm's training says, which may be views of the model.

    Raises:
        ValueError: They are not of the layout.
    """
    if odd := layout.odd_in(changes):
        raise ValueError(f"algorithm {type(algorithm).__name__}: train(): {odd}")
    return {
        field: {n: np.array(a, order="C") for n, a in arrays.items()} for field, arrays in changes.items()
    }


def settle(context: Context, algorithm: Algorithm, first: Fields, in_sum: int) -> None:
    """Change the values that a client keeps by what is pending, if that was in a sum; nothing is pending afterwards.

    Args:
        context: The client's.
        algorithm: Says which fields it keeps.
        first: The fields before the first round.
        in_sum: The last round whose sum held this client's changes, as the server says; 0: none.
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
    """Have what a client sends of the fields that it keeps pend."""
    kept = [name for name, field in algorithm.fields.items() if field.kept]
    for name in kept:
        context.state[_pending(name)] = record_of(dict(changes[name]))
    if kept:
        context.state[PENDING] = ConfigRecord({"round": round_})


def _pending(name: str) -> str:
    return f"{PENDING}-{name}"


def _to_read(arrays: Arrays) -> Arrays:
    """Return views that nobody can change: what they show may be other clients' too."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views
