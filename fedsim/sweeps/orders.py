"""What a sweep and its workers say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.sweeps.state import State


@dataclass(frozen=True)
class Order:
    """A run to play."""

    name: str
    path: Path
    toml: str  # the experiment, every default included


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
