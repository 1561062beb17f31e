"""What happens to an update before it leaves the client: the experiment's transforms, then the mechanism's protection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fedsim.clients.client_runtime import client_index, client_round, client_runtime, server_round
from fedsim.clients.process import ClientProcess, note_released
from fedsim.messages import ARRAYS, CONFIG, LEDGER, METRICS
from fedsim.privacy.events import Noise
from fedsim.records import config_in, record_in
from fedsim.sections.privacy import PARTICIPATIONS
from fedsim.transforms.build import transformed


class BudgetExhausted(ValueError):
    """A client has no participations left."""


def transform_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Transform the update of a reply, in place of the original.

    An update with NaN or infinity stays unchanged: the server or the mechanism handles it.
    """
    runtime = client_runtime(context)
    if not runtime.transforms:
        return call_next(message, context)
    round_, client = server_round(message), client_index(context)
    received = record_in(message.content, ArrayRecord, ARRAYS)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    update = runtime.layout.update_in(reply.content, received)
    if np.isfinite(update).all():
        update = transformed(runtime.transforms, update, runtime.experiment.seed, round_, client)
        runtime.layout.put_in_clear(reply.content, received, update, keep_counters=True)
    return reply


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
        _count_participation(context, half.most, at.round, noise)
    received = record_in(message.content, ArrayRecord, ARRAYS)
    reply = call_next(message, context)
    if reply.has_error() or not half.protects:
        return reply
    update = runtime.layout.update_in(reply.content, received)
    trained = record_in(reply.content, MetricRecord, METRICS)
    protected = half.protect(update, trained, at)  # type: ignore[arg-type]
    if half.protects == "difference":
        runtime.layout.put_as_vector(reply.content, protected.update)
    else:
        runtime.layout.put_in_clear(reply.content, received, protected.update)
    reply.content[METRICS] = _public_metrics(trained, noise, protected.metrics)
    if protected.event is not None:
        note_released(protected.event, context, config)
        reply.content[LEDGER] = ConfigRecord({"events": [protected.event.dumps()]})
    return reply


def _count_participation(context: Context, most: int | None, round_: int, noise: Noise) -> None:
    """Count a participation in a client's state, of at most `most`; raises `BudgetExhausted` if none is left.

    With seeded noise, a repetition of a round by a resumed server is the same release and does not count.
    """
    count = config_in(context.state, PARTICIPATIONS)
    so_far = int(count.get("rounds", 0))  # type: ignore[arg-type]
    if noise is Noise.SEEDED and count.get("last") == round_:
        return
    if most is not None and so_far >= most:
        raise BudgetExhausted(f"has taken part in {so_far} rounds, all that max-participations allows")
    context.state[PARTICIPATIONS] = ConfigRecord({"rounds": so_far + 1, "last": round_})


def _public_metrics(trained: MetricRecord, noise: Noise, terms: Mapping[str, Any]) -> MetricRecord:
    """Return the metrics that may leave with a protected update: weight 1, terms of noised sums, losses if seeded.

    Losses are for the experimenter, and not part of the release.
    """
    seeded = noise is Noise.SEEDED
    losses = {n: v for n, v in trained.items() if seeded and n != "num-examples" and math.isfinite(v)}  # type: ignore[arg-type]
    return MetricRecord({"num-examples": 1, **losses, **terms})
