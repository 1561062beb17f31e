"""The training of an experiment as its privacy mechanism sees it, the mechanism's plan and its client half."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedsim.checks import intent_of, rule_of
from fedsim.experiment import Experiment
from fedsim.mechanisms import refused
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Noise
from fedsim.privacy.halves import ClientHalf
from fedsim.privacy.plan import Plan
from fedsim.privacy.secagg.encoding import METRIC_BITS
from fedsim.privacy.training import SecureSum, Training
from fedsim.randomness import ClientsDraws


def training_of(
    experiment: Experiment, records: NDArray[np.int64], shapes: Mapping[str, tuple[int, ...]]
) -> Training:
    """Return an experiment's training, for its mechanism.

    `records` is the number of each client's training records, `(clients,)`; `shapes` are of an update's arrays, in order.
    """
    secagg, secure = experiment.privacy.secagg, None
    if secagg is not None:
        step = secagg.clip / (2 ** (secagg.input_bits - 1) - 1)
        secure = SecureSum(clip=secagg.clip, step=step, metric_step=2.0**-METRIC_BITS)
    return Training(
        rounds=experiment.rounds,
        rule=rule_of(experiment.server),
        records=records,
        shapes=shapes,
        work=experiment.client.work,
        noise=Noise(experiment.privacy.noise),
        arithmetic=Arithmetic(experiment.privacy.arithmetic),
        secure=secure,
    )


def client_half_of(experiment: Experiment) -> ClientHalf:
    """Return the client's half of its mechanism; raises `Refused` if no noise reaches the epsilon."""
    mechanism, settings = experiment.privacy.mechanism, experiment.privacy.settings
    with refused(mechanism):
        half: ClientHalf = mechanism.client(settings, intent_of(experiment), ClientsDraws(experiment))
    return half


def plan_of(experiment: Experiment, training: Training) -> Plan:
    """Return the plan of an experiment's mechanism.

    Raises:
        Refused: The mechanism's settings don't fit the training, or no guarantee is known for them.
    """
    mechanism = experiment.privacy.mechanism
    with refused(mechanism):
        return mechanism.plan(experiment.privacy.settings, training)
