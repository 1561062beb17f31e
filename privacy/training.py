"""The training that a mechanism protects, and the server's randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic, sensitivity_after_rounding
from fedsim.privacy.events import Noise
from fedsim.privacy.intent import CohortRule, LocalWork
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.vectors import dimension_of


class Unfit(ValueError):
    """Settings that don't fit the training; the message names the key, its value and what is allowed."""

    def __init__(self, key: str, value: Any, message: str) -> None:
        super().__init__(f"{key} = {value}: {message}")


@dataclass(frozen=True, kw_only=True)
class SecureSum:
    """Clipping and rounding of the numbers that secure aggregation sums.

    Attributes:
        clip: Largest magnitude of a coordinate; larger ones are clipped.
        step: Step of the grid that coordinates are rounded to.
        metric_step: Step of the grid that metrics are rounded to.
    """

    clip: float
    step: float
    metric_step: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training that a mechanism protects, described by the experiment, the data and the model.

    Attributes:
        rounds: Of the whole run, 1 or more.
        rule: Rule for drawing cohorts.
        records: Number of each client's training records, `(clients,)`.
        shapes: Of an update's arrays, in their order: the model's, then the algorithm's fields'.
        work: A client's local work in a round.
        noise: Source of the noise.
        arithmetic: How noise is added.
        secure: Rounding of secure aggregation; None: sums are taken in clear.
    """

    rounds: int
    rule: CohortRule
    records: NDArray[np.int64]
    shapes: Mapping[str, tuple[int, ...]]
    work: LocalWork
    noise: Noise
    arithmetic: Arithmetic
    secure: SecureSum | None = None

    @property
    def clients(self) -> int:
        """Number of clients."""
        return len(self.records)

    @property
    def dimension(self) -> int:
        """Numbers in an update."""
        return dimension_of(self.shapes.values())

    def sum_sensitivity(self, clip: float) -> float:
        """Return the L2 sensitivity of a sum of clipped updates; rounding in secure aggregation increases it."""
        if self.secure is None:
            return clip
        return sensitivity_after_rounding(clip, self.dimension, self.secure.step)


class Draws(Protocol):
    """The server's randomness, from named streams of a run's seed or secretly from the operating system."""

    @property
    def source(self) -> Noise:
        """Source of the noise."""

    def noise(self, purpose: str, round_: int) -> Randomness:
        """Return the source of the server's noise in a round."""

    def coins(self, round_: int) -> np.random.Generator:
        """Return the generator of a round's cohort."""


def check_delta_of_clients(delta: float, clients: int) -> None:
    """Raise `Unfit` for a delta of 1 / clients or more."""
    if delta >= 1 / clients:
        why = "a mechanism that publishes one client at random would pass"
        raise Unfit("delta", delta, f"must be below 1 / clients = 1 / {clients}: {why}")
