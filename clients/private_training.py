"""Local training with example-level differential privacy: DP-SGD in the place of SGD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context

from fedsim.clients.place import note_released
from fedsim.clients.training import Trained, pull_to, received_weights
from fedsim.clients.workbench import Workbench, client_index
from fedsim.data import Examples
from fedsim.experiment import Experiment
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.release import DpSgd
from fedsim.privacy.dp_sgd.state import Untrained
from fedsim.privacy.events import Event, Noise
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SeededRandomness, SystemRandomness
from fedsim.privacy_sections import PARTICIPATIONS, DpSgdSection
from fedsim.records import config_in
from fedsim.streams import noise_stream, numpy_stream, torch_stream


class BudgetExhausted(ValueError):
    """A client has taken part as often as it may."""


def take_part(context: Context, most: int | None, round_: int, noise: Noise) -> None:
    """Count a participation in a client's state.

    Args:
        context: The client's.
        most: Participations at most; None: there is no limit.
        round_: The round. Where the noise is seeded, one that a resumed server runs again is the same release.
        noise: Where the noise comes from.

    Raises:
        BudgetExhausted: It has had them all.
    """
    count = config_in(context.state, PARTICIPATIONS)
    so_far = int(count.get("rounds", 0))  # type: ignore[arg-type]
    if noise is Noise.SEEDED and count.get("last") == round_:
        return
    if most is not None and so_far >= most:
        raise BudgetExhausted(f"has taken part in {so_far} rounds, all that max-participations allows")
    context.state[PARTICIPATIONS] = ConfigRecord({"rounds": so_far + 1, "last": round_})


def train_privately(
    bench: Workbench,
    gradient: PrivateGradient,
    examples: Examples,
    config: Mapping[str, Any],
    context: Context,
) -> tuple[Trained, Event]:
    """Run DP-SGD on a client's examples, in place.

    The event is in the ledger that the client keeps, or that the message names, before this returns. Only what is
    trained, and so noised, differs afterwards from what was received: buffers and frozen parameters are put back,
    after each step already, since nothing clips what they would do to the next.

    Args:
        bench: Its model holds the round's global weights, and the trained ones afterwards.
        gradient: Of that model.
        examples: At least one.
        config: Of the train message: `server-round`; `noise-multiplier` where it was calibrated; `ledger`.
        context: The client's, whose state counts its participations.

    Returns:
        What it reports, which is not part of the release; and the event of the release.

    Raises:
        BudgetExhausted: It has taken part as often as it may.
    """
    experiment, optimizer = bench.experiment, bench.optimizer
    dp_sgd = experiment.privacy.dp_sgd
    if dp_sgd is None:
        raise TypeError("the experiment has no [privacy.dp-sgd]")
    client, round_ = client_index(context), int(config["server-round"])
    noise = Noise(experiment.privacy.noise)
    take_part(context, dp_sgd.max_participations, round_, noise)
    release = DpSgd(
        gradient=gradient,
        batches=dp_sgd.batches(experiment.client, len(examples)),
        noise_multiplier=_noise_multiplier(dp_sgd, config),
        relation=dp_sgd.neighbours,
        randomness=_randomness(experiment, round_, client),
        noise=noise,
    )
    mu = float(config.get("proximal-mu", experiment.client.proximal_mu))
    anchors = received_weights(optimizer, mu)
    inputs, targets = bench.task.tensors(examples)
    bench.model.train()  # it may have been evaluated before
    untrained = Untrained(bench.model)
    losses = []
    while release.taken < release.batches.steps:
        losses.append(release.step(inputs, targets))
        pull_to(anchors, optimizer, mu)
        optimizer.step()
        untrained.put_back()
    seen = [loss for loss in losses if loss is not None]
    mean = math.fsum(seen) / len(seen) if seen else 0.0
    event = release.event(round_, client)
    note_released(event, context, config)
    return Trained(loss=mean, steps=release.taken), event


def _noise_multiplier(dp_sgd: DpSgdSection, config: Mapping[str, Any]) -> float:
    """Return the experiment's own noise multiplier, else the one that was calibrated for its epsilon.

    Raises:
        ValueError: There is none.
    """
    if dp_sgd.noise_multiplier is not None:
        return dp_sgd.noise_multiplier
    calibrated = float(config.get("noise-multiplier", 0.0))
    if not (calibrated > 0 and math.isfinite(calibrated)):
        raise ValueError(f"the message's noise-multiplier is {calibrated}; a number above 0 is needed")
    return calibrated


def _randomness(experiment: Experiment, round_: int, client: int) -> Randomness:
    if Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return SystemRandomness()
    coins = numpy_stream(experiment.seed, "dp-sgd-batches", round_=round_, client=client)
    if Arithmetic(experiment.privacy.arithmetic) is Arithmetic.FLOAT32:
        noise = torch_stream(experiment.seed, "dp-sgd-noise", round_=round_, client=client)
        return SeededRandomness(coins, noise)
    return NumpyRandomness(noise_stream(experiment.seed, "dp-sgd-noise", round_=round_, client=client), coins)
