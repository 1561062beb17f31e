"""Telling someone how a run is going.

The round loop runs inside a Flower ServerApp, whose signature has no room for a listener; so the listener
is a context variable of the process that watches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Hears of a run: once when its directory is there, then of each round, with its row of `metrics.jsonl`."""

    def started(self, path: Path, rounds: int, done: int) -> None:
        """The run directory is written; of `rounds` rounds, `done` were made before, and the next begins."""

    def round_done(self, row: Mapping[str, Any]) -> None:
        """A round has ended, and is safe from a kill."""

    def stopping(self) -> None:
        """A signal has come, and the round in flight is the last; called from the signal's handler."""


class Silent:
    """Tells no one."""

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Say nothing."""

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Say nothing."""

    def stopping(self) -> None:
        """Say nothing."""


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def current() -> Progress | None:
    """Return who listens in this context, None outside a run of fedsim's own."""
    return _current.get()


@contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Let `progress` hear of the runs inside the block."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)
