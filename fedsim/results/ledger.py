"""The file of a run's privacy events, one a line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fedsim.errors import Refused
from fedsim.mechanisms import event_of
from fedsim.privacy.events import Event
from fedsim.results.disclosure import LEDGER
from fedsim.results.files import LineFile, Position


class LedgerFile:
    """A run's ledger.

    With seeded noise this process writes it, a round at a time; on resume, events without a checkpoint are cut off,
    since the same noise is drawn again. With the operating system's noise each client notes its event before the
    noised value leaves it (with secure aggregation this process does, before it asks), and events are never removed.

    Args:
        path: The file.
        lasting: Whether events are never removed.
        own: Reference of the run's mechanism, if it is a user's own.

    Attributes:
        path: The file.
        lasting: Whether events are never removed.
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

    def go_on(self, position: Position) -> list[Event]:
        """Return the events of a run that resumes from a checkpoint at `position`.

        Raises:
            Refused: The file is damaged.
        """
        self._file.position = position
        events = self._parsed(self._file.rows())
        if not self.lasting:
            self._file.cut()
            return events
        self._drop_half_a_line()
        return events + self._news()

    def take(self, events: Sequence[Event]) -> list[Event]:
        """Note a round's events, or return those that its clients noted, including late ones."""
        if self.lasting:
            return self._news()
        self.write(events)
        return list(events)

    def write(self, events: Sequence[Event]) -> None:
        """Note events; they are on the disk when this returns."""
        self._file.extend([event.to_json() for event in events])

    def _drop_half_a_line(self) -> None:
        """Cut off an incomplete line of a killed client, which had not sent its value yet."""
        content = self.path.read_bytes()
        with self.path.open("ab") as file:
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())

    def _news(self) -> list[Event]:
        """Read new whole lines."""
        before = self._file.position
        with self.path.open("rb") as file:
            file.seek(before.bytes)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.position = Position(before.bytes + len(whole), before.lines + whole.count(b"\n"))
        try:
            return self._parsed([json.loads(line) for line in whole.splitlines()])
        except ValueError as error:
            raise Refused(f"{LEDGER}: is damaged: {error}") from None

    def _parsed(self, rows: list[dict[str, object]]) -> list[Event]:
        try:
            return [event_of(row, self._own) for row in rows]
        except ValueError as error:
            raise Refused(f"{LEDGER}: is damaged: {error}") from None
