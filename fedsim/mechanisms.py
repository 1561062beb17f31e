"""The privacy mechanism of an experiment, by the catalogue, and its lines of the ledger."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedsim.catalogue import MECHANISMS
from fedsim.errors import Refused
from fedsim.privacy.events import Event, Noise
from fedsim.privacy.mechanism import Mechanism, Unfit
from fedsim.privacy_sections import PrivacySection


def metric_terms(privacy: PrivacySection) -> Mapping[str, str]:
    """Return the metrics that clients send for noised sums: the name in a reply, by the name in the ledger."""
    return privacy.mechanism.metric_terms(privacy.settings)


def metrics_of_sums(privacy: PrivacySection) -> tuple[str, ...]:
    """Return the metrics whose means secure aggregation takes; not those that clients say only where noise is seeded."""
    seeded = Noise(privacy.noise) is Noise.SEEDED
    return ("train-loss",) * seeded + tuple(metric_terms(privacy).values())


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
    kind = _events().get(str(tree.get("mechanism")))
    if kind is None:
        raise ValueError(
            f"no mechanism {tree.get('mechanism')!r} releases events; known: {', '.join(_events())}"
        )
    return kind.from_json(tree)


def loads(text: str) -> Event:
    """Return the event of a JSON text; raises `ValueError` where it is none."""
    return event_of(json.loads(text))


@functools.cache
def _events() -> dict[str, type[Event]]:
    return {name: kind for entry in MECHANISMS.values() for name, kind in entry.load().events.items()}
