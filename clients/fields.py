"""An algorithm's fields on a client: what the server sent, and the values that the client keeps in its own state.

What a client sends of a field that it keeps is pending, with its round, until a later message confirms that this was in the
round's sum; then the value changes by it. So the server's mean of all changes is the mean of all values, whoever drops out.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from fedsim.algorithms.protocol import Algorithm, Arrays, Fields
from fedsim.arrays import arrays_in, record_of
from fedsim.layout import Layout
from fedsim.records import config_in, find_record, record_in

PENDING = "pending"  # the record in a client's state that holds the round of the changes that are pending


def received_fields(content: RecordDict, layout: Layout) -> Fields:
    """Return the fields of a message.

    Raises:
        ValueError: One is missing, or not of the layout.
    """
    return {name: _arrays(record_in(content, ArrayRecord, name), name, layout) for name in layout.fields}


def own_values(context: Context, algorithm: Algorithm, first: Fields) -> Fields:
    """Return a client's values of the fields that it keeps; before it keeps any, the first ones of the run."""
    values = {}
    for name, field in algorithm.fields.items():
        if field.kept:
            kept = find_record(context.state, ArrayRecord, f"kept-{name}")
            values[name] = first[name] if kept is None else arrays_in(kept)
    return values


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


def _arrays(record: ArrayRecord, name: str, layout: Layout) -> Arrays:
    values = arrays_in(record)
    if {key: (array.shape, array.dtype) for key, array in values.items()} != layout.fields[name]:
        raise ValueError(
            f"the message's field {name!r} is not of this algorithm: other names, shapes or dtypes"
        )
    return values
