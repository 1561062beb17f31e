"""The file of a run's privacy events, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import Refused
from fedsim.mechanisms import event_of
from fedsim.privacy.events import Event
from fedsim.results.disclosure import LEDGER
from fedsim.results.files import LineFile, Position, check_types

ROUND = {"round": (int,)}


class LedgerFile:
    """A run's ledger.

    With seeded noise this process writes it, a round at a time; on resume, events without a checkpoint are cut off,
    since the same noise is drawn again. With the operating system's noise each client notes its event before the
    noised value leaves it (with secure aggregation this process does, before it asks), and events are never removed.

    Args:
        path: The file.
        lasting: Whether events are never removed.
        own: Reference of the run's mechanism, if it is a user's own.
    """

    def __init__(self, path: Path, *, lasting: bool, own: str = "") -> None:
        self.path = path
        self.lasting = lasting
        self._own = own
        self._file = LineFile(path)

    @property
    def position(self) -> Position:
        """Position up to which the file was written or read."""
        return self._file.position

    def resume(self, position: Position) -> list[Event]:
        """Return the events of a run that resumes at `position`; raises `Refused` for a changed or damaged file."""
        self._file.position = position
        try:
            rows = self._file.rows()
        except Refused:
            if not self.lasting:
                raise
            raise Refused(
                f"{LEDGER}: is not what the checkpoint was made with"
            ) from None  # its length is private
        events = self._parsed(rows)
        if self.lasting:
            events += self._news()
        self._file.cut()  # a killed client had not sent the value of half a line yet
        return events

    def take(self, events: Sequence[Event]) -> list[Event]:
        """Note a round's events, or return those that its clients noted, including late ones."""
        if self.lasting:
            return self._news()
        self.write(events)
        return list(events)

    def write(self, events: Sequence[Event]) -> None:
        """Note events; they are on the disk when this returns."""
        self._file.extend([event.to_json() for event in events])

    def _news(self) -> list[Event]:
        try:
            rows = self._file.news()
        except Refused:
            raise
        except (OSError, ValueError) as error:
            raise Refused(f"{LEDGER}: is damaged: {error}") from None
        return self._parsed(rows)

    def _parsed(self, rows: list[dict[str, Any]]) -> list[Event]:
        try:
            events = [event_of(row, self._own) for row in rows]
            for event in events:
                check_types({"round": event.round}, ROUND)
            return events
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise Refused(f"{LEDGER}: is damaged: {error}") from None
