"""An experiment's privacy mechanism: its client half, its plan, and the lines of its ledger."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import MECHANISMS
from fedsim.checks import intent_of, rule_of
from fedsim.errors import Refused
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Event, Noise, RawEvent
from fedsim.privacy.halves import ClientHalf
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.plan import Plan
from fedsim.privacy.secagg.encoding import METRIC_BITS
from fedsim.privacy.training import SecureSum, Training, Unfit
from fedsim.randomness import ClientsDraws
from fedsim.references import load_reference

if TYPE_CHECKING:
    from fedsim.experiment import Experiment


@contextmanager
def refused(mechanism: Mechanism[Any]) -> Iterator[None]:
    """Turn a mechanism's `ValueError` into a refusal of its table; a `Refused` passes unchanged."""
    try:
        yield
    except Refused:
        raise
    except Unfit as error:
        raise Refused(f"privacy.{mechanism.name}.{error}") from None
    except ValueError as error:
        raise Refused(f"privacy.{mechanism.name}: {error}") from None


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


class UnknownEvent(ValueError):
    """A ledger line of an unknown mechanism."""


def event_of(tree: Mapping[str, Any], own: str = "") -> Event:
    """Return the event of a line of `ledger.jsonl`.

    `own` is the reference of the run's mechanism, `"module:Class"`, if it is a user's own.

    Raises:
        ValueError: It is no event (`UnknownEvent`: its mechanism is unknown).
        Refused: The user's own mechanism can't be loaded.
    """
    kinds = _events() | (dict(load_reference(own).events) if own else {})
    name = tree.get("mechanism")
    if str(name) not in kinds:
        raise UnknownEvent(f"no mechanism {name!r} releases events; known: {', '.join(kinds)}")
    return kinds[str(name)].from_json(tree)


def event_or_raw(tree: Mapping[str, Any], own: str = "") -> Event:
    """Return the event of a line, raw if its mechanism is unknown; arguments and errors as `event_of`."""
    try:
        return event_of(tree, own)
    except (UnknownEvent, Refused):
        return RawEvent(tree)


def loads(text: str, own: str = "") -> Event:
    """Return the event of a JSON text; `own` and errors as in `event_of`."""
    return event_of(json.loads(text), own)


@functools.cache
def _events() -> dict[str, type[Event]]:
    return {name: kind for entry in MECHANISMS.values() for name, kind in entry.load().events.items()}
