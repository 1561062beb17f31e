"""The privacy mechanism's work on a client's update, before it leaves the client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fedsim.arrays import arrays_in, record_of
from fedsim.clients.client_runtime import client_index, client_round, client_runtime
from fedsim.clients.participation import take_part
from fedsim.clients.process import ClientProcess, note_released
from fedsim.messages import ARRAYS, CONFIG, LEDGER, METRICS, VECTOR
from fedsim.privacy.events import Noise
from fedsim.records import record_in
from fedsim.vectors import difference, plus


def protect_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count the participation of a client that releases by itself, and protect what training has changed.

    The reply of a mechanism that clips for the server holds the clipped difference, as one vector, and no model. That of
    one that noises holds the model that came, moved by the noised difference, and in `ledger` the `events` of the release:
    they are in the ledger that the client keeps, or that the message names, before this returns. Either weighs 1, however
    many examples the client has.

    Raises:
        BudgetExhausted: The client has taken part as often as it may.
        ValueError: A client process is told noise by which the experiment's guarantee would not hold for it.
    """
    runtime = client_runtime(context)
    half, noise = runtime.half, Noise(runtime.experiment.privacy.noise)
    if not (half.releases or half.protects):
        return call_next(message, context)
    config = record_in(message.content, ConfigRecord, CONFIG)
    at = client_round(context, config, len(runtime.data.client(client_index(context)).train))
    if half.releases:
        if ClientProcess.of(context) is not None:
            half.check_told(at)
        take_part(context, half.most, at.round, noise)
    received = record_in(message.content, ArrayRecord, ARRAYS)
    reply = call_next(message, context)
    if reply.has_error() or not half.protects:
        return reply
    layout = runtime.layout
    changes = {name: arrays_in(record_in(reply.content, ArrayRecord, name)) for name in layout.fields}
    update = layout.joined(difference(record_in(reply.content, ArrayRecord, ARRAYS), received), changes)
    trained = record_in(reply.content, MetricRecord, METRICS)
    protected = half.protect(update, trained, at)  # type: ignore[arg-type]
    if half.protects == "difference":
        for name in (ARRAYS, *layout.fields):
            del reply.content[name]
        reply.content[VECTOR] = record_of({VECTOR: protected.update})
    else:
        model, noised = layout.parted(layout.split(protected.update))
        reply.content[ARRAYS] = plus(received, model)
        for name, arrays in layout.typed(noised).items():
            reply.content[name] = record_of(arrays)
    reply.content[METRICS] = public_metrics(trained, noise, protected.metrics)
    if protected.event is not None:
        note_released(protected.event, context, config)
        reply.content[LEDGER] = ConfigRecord({"events": [protected.event.dumps()]})
    return reply


def public_metrics(trained: MetricRecord, noise: Noise, terms: Mapping[str, Any]) -> MetricRecord:
    """Return what a client whose update is protected reports: that it weighs 1, terms of noised sums, losses if seeded.

    Losses are the experimenter's view, and not part of the release.
    """
    seeded = noise is Noise.SEEDED
    losses = {n: v for n, v in trained.items() if seeded and n != "num-examples" and math.isfinite(v)}  # type: ignore[arg-type]
    return MetricRecord({"num-examples": 1, **losses, **terms})
