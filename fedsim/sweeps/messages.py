"""What a sweep and its workers say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.sweeps.state import State


@dataclass(frozen=True)
class Order:
    """A run to play.

    Attributes:
        name: The run's.
        path: Of its directory.
        toml: The experiment, every default included.
        until: The round after which it pauses; None: it goes to its end.
        trackers: Who is told of it: a list of `Tracker`, pickled; empty: nobody.
    """

    name: str
    path: Path
    toml: str
    until: int | None = None
    trackers: bytes = b""


@dataclass(frozen=True)
class Ready:
    """The worker can play runs."""


@dataclass(frozen=True)
class Started:
    """A run begins; of `rounds` rounds, `done` were made before."""

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
