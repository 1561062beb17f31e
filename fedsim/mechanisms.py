"""The privacy mechanism of an experiment, by the catalogue, and its lines of the ledger."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedsim.catalogue import MECHANISMS, NO_MECHANISM
from fedsim.errors import Refused
from fedsim.privacy.events import Event
from fedsim.privacy.mechanism import Mechanism, Unfit
from fedsim.privacy.settings import Section
from fedsim.privacy_sections import PrivacySection
from fedsim.references import load_reference


def mechanism_of(privacy: PrivacySection) -> tuple[Mechanism[Any], Section]:
    """Return the mechanism of `[privacy]`, and its table; `Unprotected` where it has none."""
    chosen = privacy.chosen
    entry, settings = (NO_MECHANISM, Section()) if chosen is None else (MECHANISMS[chosen[0]], chosen[1])
    return entry.load()(), settings


def metric_terms(privacy: PrivacySection) -> Mapping[str, str]:
    """Return the metrics that clients send for noised sums: the name in a reply, by the name in the ledger."""
    mechanism, settings = mechanism_of(privacy)
    return mechanism.metric_terms(settings)


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
        raise ValueError(
            f"no mechanism {tree.get('mechanism')!r} releases events; known: {', '.join(_events())}"
        )
    event: Event = load_reference(reference).from_json(tree)
    return event


def loads(text: str) -> Event:
    """Return the event of a JSON text; raises `ValueError` where it is none."""
    return event_of(json.loads(text))


@functools.cache
def _events() -> dict[str, str]:
    return {name: event for entry in MECHANISMS.values() for name, event in entry.events.items()}
