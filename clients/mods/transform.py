"""Applies the experiment's transforms between training and protection."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fedsim.clients.client_runtime import client_index, client_runtime
from fedsim.clients.updates import put_update, update_in
from fedsim.messages import ARRAYS, CONFIG
from fedsim.records import record_in
from fedsim.streams import numpy_stream
from fedsim.transforms.build import transformed


def transform_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Transform the update of a reply, in place of the original.

    An update with NaN or infinity stays unchanged: the server or the mechanism handles it.

    Raises:
        ValueError: A transform returns a vector of another shape or dtype.
    """
    runtime = client_runtime(context)
    if not runtime.transforms:
        return call_next(message, context)
    config = record_in(message.content, ConfigRecord, CONFIG)
    received = record_in(message.content, ArrayRecord, ARRAYS)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    update = update_in(reply.content, received, runtime.layout)
    if np.isfinite(update).all():
        seed, client = runtime.experiment.seed, client_index(context)
        round_ = int(config["server-round"])  # type: ignore[arg-type]
        update = transformed(
            runtime.transforms,
            update,
            lambda index: numpy_stream(seed, f"transform-{index}", round_=round_, client=client),
        )
        put_update(reply.content, received, update, runtime.layout)
    return reply
