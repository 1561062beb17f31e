"""An experiment's privacy mechanism, by the catalogue, and its ledger lines."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedsim.catalogue import MECHANISMS
from fedsim.errors import Refused
from fedsim.privacy.events import Event, Noise, RawEvent
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.training import Unfit
from fedsim.privacy_sections import PrivacySection
from fedsim.references import load_reference


def metric_terms(privacy: PrivacySection) -> Mapping[str, str]:
    """Return the metrics that clients send for noised sums: the name in a reply, by the name in the ledger."""
    return privacy.mechanism.metric_terms(privacy.settings)


def metrics_of_sums(privacy: PrivacySection) -> tuple[str, ...]:
    """Return the metrics that secure aggregation averages, without those that clients send only with seeded noise."""
    seeded = Noise(privacy.noise) is Noise.SEEDED
    return ("train-loss",) * seeded + tuple(metric_terms(privacy).values())


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


class UnknownEvent(ValueError):
    """A ledger line of an unknown mechanism."""


def event_of(tree: Mapping[str, Any], own: str = "") -> Event:
    """Return the event of a line of `ledger.jsonl`.

    Args:
        tree: The line.
        own: Reference of the run's mechanism, `"module:Class"`, if it is a user's own.

    Raises:
        ValueError: It is no event (`UnknownEvent`: its mechanism is unknown).
        Refused: The user's own mechanism can't be loaded.
    """
    kinds = _events() | (dict(load_reference(own).events) if own else {})
    kind = kinds.get(str(tree.get("mechanism")))
    if kind is None:
        raise UnknownEvent(
            f"no mechanism {tree.get('mechanism')!r} releases events; known: {', '.join(kinds)}"
        )
    return kind.from_json(tree)


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
