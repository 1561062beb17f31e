"""An algorithm's fields around training and protection: the client keeps the changes as they were sent."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fedsim.algorithms.protocol import Fields
from fedsim.arrays import Values, record_of, values_of
from fedsim.clients.client_runtime import ClientRuntime, client_runtime
from fedsim.clients.fields import note_sent, settle
from fedsim.clients.updates import changes_in, update_in
from fedsim.messages import ARRAYS, CONFIG, OWN, VECTOR
from fedsim.records import config_in, find_record, record_in


def fields_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Settle pending changes, train, and store the sent changes of kept fields as pending.

    With secure aggregation the update is sent as one vector, clipped by coordinate.
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
    return update_in(reply.content, received, runtime.layout)


def _sent(reply: Message, runtime: ClientRuntime) -> Fields:
    """Return the changes of the fields in a reply, in clear or as one vector."""
    layout, joined = runtime.layout, find_record(reply.content, ArrayRecord, VECTOR)
    if joined is None:
        return changes_in(reply.content, layout)
    _, changes = layout.separate(layout.split(values_of(joined[VECTOR])))
    return layout.typed(changes)
