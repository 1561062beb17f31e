"""The privacy mechanism of an experiment, by the catalogue: its plan for a training, and its lines of the ledger."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import MECHANISMS, NO_MECHANISM
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Event, Noise, Sampling
from fedsim.privacy.mechanism import CohortRule, Mechanism, Plan, SecureSum, Training, Unfit
from fedsim.privacy.secagg.encoding import METRIC_BITS
from fedsim.privacy.settings import Section
from fedsim.references import load_reference


def mechanism_of(experiment: Experiment) -> tuple[Mechanism[Any], Section]:
    """Return an experiment's mechanism and its table; `Unprotected` where it has none."""
    chosen = experiment.privacy.chosen
    entry, settings = (NO_MECHANISM, Section()) if chosen is None else (MECHANISMS[chosen[0]], chosen[1])
    return entry.load()(), settings


def metric_terms(experiment: Experiment) -> Mapping[str, str]:
    """Return the metrics that clients send for noised sums: the name in a reply, by the name in the ledger."""
    mechanism, settings = mechanism_of(experiment)
    return mechanism.metric_terms(settings)


def training_of(
    experiment: Experiment, records: NDArray[np.int64], shapes: Mapping[str, tuple[int, ...]]
) -> Training:
    """Return what a mechanism has to know of an experiment's training.

    Args:
        experiment: The experiment.
        records: Training records of each client, `(clients,)`.
        shapes: Of the model's arrays, in their order.
    """
    server, secagg = experiment.server, experiment.privacy.secagg
    return Training(
        rounds=experiment.rounds,
        rule=CohortRule(
            sampling=Sampling(server.sampling), cohort=server.cohort, max_cohort=server.max_cohort
        ),
        records=records,
        shapes=shapes,
        work=experiment.client.work,
        noise=Noise(experiment.privacy.noise),
        arithmetic=Arithmetic(experiment.privacy.arithmetic),
        secure=None
        if secagg is None
        else SecureSum(
            clip=secagg.clip,
            step=secagg.clip / (2 ** (secagg.input_bits - 1) - 1),
            metric_step=2.0**-METRIC_BITS,
        ),
    )


def plan_of(experiment: Experiment, training: Training) -> Plan:
    """Return the plan of an experiment's mechanism.

    Raises:
        Refused: The mechanism's settings don't fit the training, or no theorem covers them.
    """
    mechanism, settings = mechanism_of(experiment)
    with refused(mechanism):
        return mechanism.plan(settings, training)


@contextmanager
def refused(mechanism: Mechanism[Any]) -> Iterator[None]:
    """Make the `ValueError` of a mechanism the refusal of its table."""
    try:
        yield
    except Unfit as error:
        raise Refused(f"privacy.{mechanism.name}.{error}") from None
    except ValueError as error:
        raise Refused(f"privacy.{mechanism.name}: {error}") from None


def event_of(tree: Mapping[str, Any]) -> Event:
    """Return the event of a line of `ledger.jsonl`; raises `ValueError` where it is none."""
    reference = _events().get(str(tree.get("mechanism")))
    if reference is None:
        raise ValueError(f"no mechanism {tree.get('mechanism')!r} releases events; known: {', '.join(_events())}")
    event: Event = load_reference(reference).from_json(tree)
    return event


def loads(text: str) -> Event:
    """Return the event of a JSON text; raises `ValueError` where it is none."""
    return event_of(json.loads(text))


@functools.cache
def _events() -> dict[str, str]:
    return {name: event for entry in MECHANISMS.values() for name, event in entry.events.items()}
