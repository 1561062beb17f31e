"""A client's side of client-level privacy by a trusted server: the update, clipped, in the place of the model."""

from __future__ import annotations

import math

from flwr.app import Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from clients.workbench import workbench
from fedsim.arrays import record_of
from fedsim.experiment import Experiment
from fedsim.summed import shifted_name
from fedsim.vectors import CLIPPED, SHIFTED_BIT, difference, split
from privacy.mechanisms import clip_jointly, shifted, shifted_bit


def clip_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip what training has changed, jointly over all arrays, where a trusted server is to noise the sum.

    The train message's config says `clip-norm`, and `clip-bit` where the reply is to say whether the norm was below.
    The reply holds the clipped difference and no model; it weighs 1, however many examples the client has. An update
    with NaN or infinity in it becomes zero. Metrics that the experiment releases are in it clipped and shifted; their
    bounds are the experiment's: the message has no say in them.
    """
    experiment = workbench(context).experiment
    if experiment.privacy.central is None:
        return call_next(message, context)
    config = message.content.config_records["config"]
    norm = float(config["clip-norm"])  # type: ignore[arg-type]
    received = message.content.array_records["arrays"]
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    update = difference(reply.content.array_records.pop("arrays"), received)
    clipped = clip_jointly({CLIPPED: update}, norm)
    reply.content[CLIPPED] = record_of(split(clipped.arrays[CLIPPED], received))
    trained = reply.content.metric_records["metrics"]
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
    metrics = MetricRecord({"num-examples": 1})
    if experiment.privacy.noise == "seeded":
        metrics.update({n: v for n, v in trained.items() if n != "num-examples" and math.isfinite(v)})  # type: ignore[arg-type]
    return metrics
