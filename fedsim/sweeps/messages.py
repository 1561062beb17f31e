"""Messages between a sweep and its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.sweeps.state import State


@dataclass(frozen=True)
class Order:
    """A run for a worker.

    Attributes:
        name: The run's name.
        path: Its directory.
        toml: The experiment, including every default.
        until: The round after which it pauses; None: it runs to its end.
        trackers: A pickled list of `Tracker`; empty: none.
    """

    name: str
    path: Path
    toml: str
    until: int | None = None
    trackers: bytes = b""


@dataclass(frozen=True)
class Ready:
    """The worker is ready."""


@dataclass(frozen=True)
class Started:
    """A run begins; `done` of `rounds` rounds were made before."""

    rounds: int
    done: int


@dataclass(frozen=True)
class RoundDone:
    """A round has ended."""

    row: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """A run has ended."""

    state: State
    reason: str = ""
