"""An algorithm's fields on a client: the server's values, and the values that the client keeps in its state.

A client's change of a kept field, as it was sent, is pending until a later message confirms that it was in its round's
sum. Then it is added to the value. So the server's mean of all changes stays the mean of all values, even with dropouts.
"""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fedsim.algorithms.protocol import Algorithm, Arrays, Fields
from fedsim.arrays import arrays_in, record_of
from fedsim.clients.client_runtime import client_runtime, server_round
from fedsim.layout import Layout
from fedsim.messages import ARRAYS, OWN
from fedsim.records import config_in, find_record, record_in

PENDING = "pending"  # record of a client's state: the round of the pending changes


def fields_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Settle pending changes, train, and store the sent changes of kept fields as pending.

    With secure aggregation the update is sent as one vector, clipped by coordinate.
    """
    runtime = client_runtime(context)
    algorithm, layout = runtime.algorithm, runtime.layout
    summed = runtime.policy is not None and bool(layout.fields or layout.counters)  # of one vector
    if not (layout.fields or summed):
        return call_next(message, context)
    round_ = server_round(message)
    in_sum = int(config_in(message.content, OWN).get("in-sum", 0))  # type: ignore[arg-type]
    settle(context, algorithm, runtime.first_fields, in_sum)
    received = record_in(message.content, ArrayRecord, ARRAYS)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    if summed and runtime.policy is not None:
        update, clip = layout.update_in(reply.content, received), runtime.policy.encoding.clip
        layout.put_as_vector(reply.content, np.clip(update, -clip, clip))
        changes = layout.changes_in(reply.content)  # as they will be in the sum
        layout.put_as_vector(reply.content, update)  # the protocol clips it, and counts
    else:
        changes = layout.changes_in(reply.content)
    note_sent(context, algorithm, changes, round_)
    return reply


def received_fields(content: RecordDict, layout: Layout) -> Fields:
    """Return the fields of a message, read-only; `ValueError` if one is missing, or does not fit the layout."""
    fields = {name: _read_only(arrays_in(record_in(content, ArrayRecord, name))) for name in layout.fields}
    if odd := layout.mismatch(fields):
        raise ValueError(f"the message's fields don't fit this algorithm: {odd}")
    return fields


def own_values(context: Context, algorithm: Algorithm, first: Fields) -> Fields:
    """Return a client's values of its kept fields, read-only; before its first change, the run's initial values."""
    values = {}
    for name in _kept(algorithm):
        kept = find_record(context.state, ArrayRecord, f"kept-{name}")
        values[name] = _read_only(first[name] if kept is None else arrays_in(kept))
    return values


def checked_changes(changes: Fields, algorithm: Algorithm, layout: Layout) -> Fields:
    """Return copies of a training's changes, which may be views of the model; `ValueError` if they don't fit."""
    if odd := layout.mismatch(changes):
        raise ValueError(f"algorithm {type(algorithm).__name__}: train(): {odd}")
    return {
        field: {n: np.array(a, order="C") for n, a in arrays.items()} for field, arrays in changes.items()
    }


def settle(context: Context, algorithm: Algorithm, first: Fields, in_sum: int) -> None:
    """Add pending changes to a client's kept values if they were in a sum, else discard them.

    The server says which round was the last with this client's changes `in_sum`; 0: none.
    """
    round_ = config_in(context.state, PENDING).get("round")
    confirmed = round_ is not None and round_ == in_sum
    for name, old in own_values(context, algorithm, first).items():
        pending = context.state.pop(f"{PENDING}-{name}", None)
        if confirmed and isinstance(pending, ArrayRecord):
            change = arrays_in(pending)
            context.state[f"kept-{name}"] = record_of({key: old[key] + change[key] for key in old})
    context.state.pop(PENDING, None)


def note_sent(context: Context, algorithm: Algorithm, changes: Fields, round_: int) -> None:
    """Store the sent changes of kept fields as pending."""
    if kept := _kept(algorithm):
        context.state.update({f"{PENDING}-{name}": record_of(changes[name]) for name in kept})
        context.state[PENDING] = ConfigRecord({"round": round_})


def _kept(algorithm: Algorithm) -> list[str]:
    return [name for name, field in algorithm.fields.items() if field.kept]


def _read_only(arrays: Arrays) -> Arrays:
    """Return read-only views, since clients may share the memory."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views
