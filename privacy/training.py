"""The training that a mechanism protects, and what its server draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Noise
from fedsim.privacy.intent import CohortRule, LocalWork
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.rounding import sensitivity_after_rounding
from fedsim.privacy.vectors import dimension_of


class Unfit(ValueError):
    """Settings that don't fit the training: the key in the mechanism's table, its value and what is allowed."""

    def __init__(self, key: str, value: Any, message: str) -> None:
        super().__init__(f"{key} = {value}: {message}")


@dataclass(frozen=True, kw_only=True)
class SecureSum:
    """What secure aggregation does to the numbers that it sums.

    Attributes:
        clip: Largest magnitude of a coordinate; what is beyond is cut.
        step: Of the grid that coordinates are rounded to.
        metric_step: Of the grid that metrics are rounded to.
    """

    clip: float
    step: float
    metric_step: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training that a mechanism protects: what the experiment, the data and the model say of it.

    Attributes:
        rounds: Of the whole run, 1 or more.
        rule: How cohorts are drawn.
        records: Training records of each client, `(clients,)`.
        shapes: Of an update's arrays, in their order: the model's, and those of what the algorithm sends beside it.
        work: Of a client in a round.
        noise: Where noise comes from.
        arithmetic: How noise is added.
        secure: What secure aggregation does to the numbers; None: sums are taken in clear.
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
        """How many clients there are."""
        return len(self.records)

    @property
    def dimension(self) -> int:
        """Numbers in an update."""
        return dimension_of(self.shapes.values())

    def sum_sensitivity(self, clip: float) -> float:
        """Return the L2 sensitivity of a sum of updates clipped to a norm: more where secure aggregation rounds them."""
        if self.secure is None:
            return clip
        return sensitivity_after_rounding(clip, self.dimension, self.secure.step)


class Draws(Protocol):
    """Named streams of a run's seed, or of the operating system's coins where nobody is to have them."""

    @property
    def source(self) -> Noise:
        """Where noise comes from."""

    def noise(self, purpose: str, round_: int) -> Randomness:
        """Return what draws the server's noise of a round."""

    def coins(self, round_: int) -> np.random.Generator:
        """Return what draws a round's cohort."""


def check_delta_of_clients(delta: float, clients: int) -> None:
    """Refuse a delta that is too large for so few clients.

    Raises:
        Unfit: It is.
    """
    if delta >= 1 / clients:
        raise Unfit(
            "delta",
            delta,
            f"must be below 1 / clients = 1 / {clients}: a mechanism that publishes one client at random would pass",
        )
