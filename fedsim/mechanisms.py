"""The refusals of a privacy mechanism, and the lines of its ledger."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedsim.catalogue import MECHANISMS
from fedsim.errors import Refused
from fedsim.privacy.events import Event, RawEvent
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.training import Unfit
from fedsim.references import load_reference


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
