"""Listeners for a run's progress.

The round loop runs inside a Flower ServerApp, which can't take a listener as an argument; so the listener is a
context variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Listens to a run: once when its directory exists, then to each round, with its row of `metrics.jsonl`.

    Its methods do nothing, for listeners that derive from it and need only some.
    """

    def started(self, path: Path, rounds: int, done: int) -> None:
        """The run directory exists; `done` of `rounds` rounds were made before, and the next begins."""
        return

    def round_done(self, row: Mapping[str, Any]) -> None:
        """A round has ended and is durable."""
        return

    def stopping(self) -> None:
        """A signal came, and the current round is the last; called from the signal handler."""
        return


class Silent(Progress):
    """A listener that ignores everything."""


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def current() -> Progress | None:
    """Return the listener of this context, None outside a run of fedsim's own."""
    return _current.get()


@contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Make `progress` the listener of runs inside the block."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)
