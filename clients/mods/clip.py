"""A client's side of client-level privacy by a trusted server: the update, clipped, in the place of the model."""

from __future__ import annotations

import math

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fedsim.arrays import record_of
from fedsim.clients.workbench import workbench
from fedsim.experiment import Experiment
from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.dp_fedavg.adaptive import shifted_bit
from fedsim.privacy.dp_fedavg.metrics import shifted
from fedsim.records import record_in
from fedsim.summed import shifted_name
from fedsim.vectors import CLIPPED, SHIFTED_BIT, difference


def clip_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip what training has changed, jointly over all arrays, where a trusted server is to noise the sum.

    The train message's config says `clip-norm`, and `clip-bit` where the reply is to say whether the norm was below.
    The reply holds the clipped difference, as one vector, and no model; it weighs 1, however many examples the client
    has. An update with NaN or infinity in it becomes zero. Metrics that the experiment releases are in it clipped and
    shifted; their bounds are the experiment's: the message has no say in them.
    """
    experiment = workbench(context).experiment
    if experiment.privacy.central is None:
        return call_next(message, context)
    config = record_in(message.content, ConfigRecord, "config")
    received = record_in(message.content, ArrayRecord, "arrays")
    norm = float(config["clip-norm"])  # type: ignore[arg-type]
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    update = difference(record_in(reply.content, ArrayRecord, "arrays"), received)
    del reply.content["arrays"]
    clipped = clip_jointly({CLIPPED: update}, norm, in_place=True)
    reply.content[CLIPPED] = record_of(clipped.arrays)
    trained = record_in(reply.content, MetricRecord, "metrics")
    metrics = sayable(trained, experiment)
    if config.get("clip-bit"):
        metrics[SHIFTED_BIT] = shifted_bit(clipped, norm)
    if experiment.privacy.dp_fedavg is not None:
        for name, released in experiment.privacy.dp_fedavg.released.items():
            metrics[shifted_name(name)] = shifted(float(trained[name]), released.bound)  # type: ignore[arg-type]
    reply.content["metrics"] = metrics
    return reply


def sayable(trained: MetricRecord, experiment: Experiment) -> MetricRecord:
    """Return what a client whose update is protected says beside it: that it weighs 1; losses where noise is seeded.

    Those are the experimenter's view, and not part of the release.
    """
    seeded = experiment.privacy.noise == "seeded"
    losses = {n: v for n, v in trained.items() if seeded and n != "num-examples" and math.isfinite(v)}  # type: ignore[arg-type]
    return MetricRecord({"num-examples": 1, **losses})
