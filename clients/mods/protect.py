"""Applies the privacy mechanism to a client's update before it leaves the client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fedsim.arrays import record_of
from fedsim.clients.client_runtime import client_index, client_round, client_runtime
from fedsim.clients.participation import count_participation
from fedsim.clients.process import ClientProcess, note_released
from fedsim.clients.updates import put_update, update_in
from fedsim.messages import ARRAYS, CONFIG, LEDGER, METRICS, VECTOR
from fedsim.privacy.events import Noise
from fedsim.records import record_in


def protect_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count the participation of a client that releases its update itself, and protect the update.

    If the mechanism clips for the server, the reply holds the clipped difference as one vector, and no model. If it
    adds noise, the reply holds the received model plus the noised difference, and in `ledger` the `events` of the
    release, which are in the client's ledger, or the one that the message names, before this returns. Both kinds of
    update have weight 1, whatever the client's number of examples.

    Raises:
        BudgetExhausted: The client has no participations left.
        ValueError: With the server's instructions, the experiment's guarantee would not hold for this client process.
    """
    runtime = client_runtime(context)
    half, noise = runtime.half, Noise(runtime.experiment.privacy.noise)
    if not (half.releases or half.protects):
        return call_next(message, context)
    config = record_in(message.content, ConfigRecord, CONFIG)
    at = client_round(context, config, len(runtime.data.client(client_index(context)).train))
    if half.releases:
        if ClientProcess.of(context) is not None:
            half.check_instructions(at)
        count_participation(context, half.most, at.round, noise)
    received = record_in(message.content, ArrayRecord, ARRAYS)
    reply = call_next(message, context)
    if reply.has_error() or not half.protects:
        return reply
    layout = runtime.layout
    update = update_in(reply.content, received, layout)
    trained = record_in(reply.content, MetricRecord, METRICS)
    protected = half.protect(update, trained, at)  # type: ignore[arg-type]
    if half.protects == "difference":
        for name in (ARRAYS, *layout.fields):
            del reply.content[name]
        reply.content[VECTOR] = record_of({VECTOR: protected.update})
    else:
        put_update(reply.content, received, protected.update, layout)
    reply.content[METRICS] = public_metrics(trained, noise, protected.metrics)
    if protected.event is not None:
        note_released(protected.event, context, config)
        reply.content[LEDGER] = ConfigRecord({"events": [protected.event.dumps()]})
    return reply


def public_metrics(trained: MetricRecord, noise: Noise, terms: Mapping[str, Any]) -> MetricRecord:
    """Return the metrics that may leave with a protected update: weight 1, terms of noised sums, losses if seeded.

    Losses are for the experimenter, and not part of the release.
    """
    seeded = noise is Noise.SEEDED
    losses = {n: v for n, v in trained.items() if seeded and n != "num-examples" and math.isfinite(v)}  # type: ignore[arg-type]
    return MetricRecord({"num-examples": 1, **losses, **terms})
