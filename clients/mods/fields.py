"""An algorithm's fields, around training and what protects it: the client keeps what has truly left it."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fedsim.algorithms.protocol import Arrays, Fields
from fedsim.arrays import Values, arrays_in, record_of, values_of
from fedsim.clients.client_runtime import ClientRuntime, client_runtime
from fedsim.clients.fields import note_sent, settle
from fedsim.messages import ARRAYS, CONFIG, OWN, VECTOR
from fedsim.records import config_in, find_record, record_in
from fedsim.vectors import difference


def fields_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Settle what was pending, train, and have pend what is sent of the fields that a client keeps.

    Under secure aggregation the update leaves as one vector, clipped coordinate by coordinate.
    """
    runtime = client_runtime(context)
    algorithm, layout = runtime.algorithm, runtime.layout
    if not layout.fields:
        return call_next(message, context)
    round_ = int(record_in(message.content, ConfigRecord, CONFIG)["server-round"])  # type: ignore[arg-type]
    in_sum = int(config_in(message.content, OWN).get("in-sum", 0))  # type: ignore[arg-type]
    settle(context, algorithm, runtime.first_fields, in_sum)
    received = record_in(message.content, ArrayRecord, ARRAYS)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    if runtime.policy is not None:
        vector = _vector(reply, received, runtime)
        clip = runtime.policy.encoding.clip
        for name in (ARRAYS, *layout.fields):
            reply.content.pop(name, None)
        reply.content[VECTOR] = record_of({VECTOR: np.clip(vector, -clip, clip)})
    note_sent(context, algorithm, _sent(reply, runtime), round_)
    return reply


def _vector(reply: Message, received: ArrayRecord, runtime: ClientRuntime) -> Values:
    """Return the update of a reply as one vector, `(dimension,)`."""
    joined = find_record(reply.content, ArrayRecord, VECTOR)
    if joined is not None:
        return values_of(joined[VECTOR])
    return runtime.layout.joined(
        difference(record_in(reply.content, ArrayRecord, ARRAYS), received), _changes(reply, runtime)
    )


def _sent(reply: Message, runtime: ClientRuntime) -> Fields:
    """Return by how much each field changes in a reply, in clear or as one vector."""
    layout, joined = runtime.layout, find_record(reply.content, ArrayRecord, VECTOR)
    if joined is None:
        return _changes(reply, runtime)
    _, changes = layout.parted(layout.split(values_of(joined[VECTOR])))
    return layout.typed(changes)


def _changes(reply: Message, runtime: ClientRuntime) -> dict[str, Arrays]:
    return {name: arrays_in(record_in(reply.content, ArrayRecord, name)) for name in runtime.layout.fields}
