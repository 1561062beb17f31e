"""Local client-level privacy: a client's update, clipped and noised before anybody sees it."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fedsim.clients.mods.clip import sayable
from fedsim.clients.place import note_released
from fedsim.clients.private_training import take_part
from fedsim.clients.workbench import Workbench, client_index, workbench
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Law, Noise
from fedsim.privacy.local_dp.noise import LocalNoise
from fedsim.randomness import randomness_of
from fedsim.records import record_in
from fedsim.vectors import difference, moved

UPDATE = "update"


def local_noise_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip and noise what training has changed, jointly over all arrays, where `[privacy.local-dp]` is on.

    The reply holds the model that came, moved by the noised difference; it weighs 1, however many examples the client
    has; `ledger` holds the `events` of the release. Clip norm and noise are the experiment's: the message has no
    say in them. An update with NaN or infinity in it counts as zero. The event is in the
    ledger that the client keeps, or that the message names, before this returns.

    Raises:
        BudgetExhausted: The client has taken part as often as it may.
    """
    bench = workbench(context)
    local_dp = bench.experiment.privacy.local_dp
    if local_dp is None:
        return call_next(message, context)
    config = record_in(message.content, ConfigRecord, "config")
    received = record_in(message.content, ArrayRecord, "arrays")
    round_, client = int(config["server-round"]), client_index(context)  # type: ignore[arg-type]
    noise = Noise(bench.experiment.privacy.noise)
    take_part(context, local_dp.participations(bench.experiment.rounds), round_, noise)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    update = difference(record_in(reply.content, ArrayRecord, "arrays"), received)
    released = _noise(bench, round_, client).release({UPDATE: update}, round_, client)
    note_released(released.event, context, config)
    reply.content["arrays"] = moved(received, released.arrays[UPDATE])
    reply.content["metrics"] = sayable(record_in(reply.content, MetricRecord, "metrics"), bench.experiment)
    reply.content["ledger"] = ConfigRecord({"events": [released.event.dumps()]})
    return reply


def _noise(bench: Workbench, round_: int, client: int) -> LocalNoise:
    local_dp = bench.experiment.privacy.local_dp
    if local_dp is None or bench.local_noise is None:
        raise TypeError("the experiment has no [privacy.local-dp]")
    return LocalNoise(
        law=Law(local_dp.law),
        clip=local_dp.clip,
        noise_multiplier=bench.local_noise,
        arithmetic=Arithmetic(bench.experiment.privacy.arithmetic),
        randomness=randomness_of(bench.experiment, "local-dp-noise", round_=round_, client=client),
    )
