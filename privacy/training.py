"""What a mechanism is told of a run: the experiment's settings, then the training; and the server's randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic, sensitivity_after_rounding
from fedsim.privacy.events import Noise, Sampling
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.vectors import dimension_of


@dataclass(frozen=True, kw_only=True)
class LocalWork:
    """A client's work in a round: `steps`, or `epochs` passes, of batches of `batch_size` records."""

    batch_size: int
    epochs: int
    steps: int | None


@dataclass(frozen=True, kw_only=True)
class CohortRule:
    """Requested sampling of cohorts.

    Attributes:
        sampling: The scheme.
        cohort: Expected clients in a cohort.
        max_cohort: Most clients in a cohort, for truncated Poisson cohorts; None: follows from the others.
    """

    sampling: Sampling
    cohort: int
    max_cohort: int | None = None


@dataclass(frozen=True, kw_only=True)
class StrategyTraits:
    """What the server's strategy needs of a round.

    Attributes:
        name: As in the experiment.
        linear: Whether the weighted mean of the updates is enough.
        needs_initial_loss: Whether clients report the loss of the received model.
        linear_ones: Names of the linear strategies, for messages.
    """

    name: str
    linear: bool
    needs_initial_loss: bool
    linear_ones: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Intent:
    """The settings of the experiment file, with every default; all of it is public.

    Attributes:
        rounds: Of the whole run, 1 or more.
        rule: How cohorts are drawn.
        clients: Number of clients; None: it depends on the data.
        weighting: Weight of a client in a mean: "examples" or "uniform".
        strategy: The server's aggregation of a round's updates.
        engine: What runs the clients: "local", "ray" or "sequential".
        noise: Where noise comes from.
        arithmetic: How noise is added.
        client_evaluation: Which clients evaluate the model: "none", "cohort" or "all".
        held_out: Share of a client's examples that it doesn't train on, from 0, below 1.
        work: A client's work in a round.
        secagg_clip: Largest magnitude of a coordinate in secure aggregation; None: sums are taken in clear.
        own_data: Whether clients bring their own data, with numbers of examples that only they know.
    """

    rounds: int
    rule: CohortRule
    clients: int | None
    weighting: str
    strategy: StrategyTraits
    engine: str
    noise: Noise
    arithmetic: Arithmetic
    client_evaluation: str
    held_out: float
    work: LocalWork
    secagg_clip: float | None
    own_data: bool


class Problem(NamedTuple):
    """Why an experiment is refused.

    Attributes:
        path: Path of the key, such as `("server", "sampling")`.
        value: Its value.
        message: The problem, and what is allowed.
    """

    path: tuple[str, ...]
    value: Any
    message: str


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
