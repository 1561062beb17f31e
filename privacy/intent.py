"""An experiment's settings, known before data and model, for a mechanism's checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Noise, Sampling


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
