"""What an experiment says before its data and its model are known: what a mechanism may refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Noise, Sampling


@dataclass(frozen=True, kw_only=True)
class LocalWork:
    """What a client does in a round: `steps`, or `epochs` passes, of batches of `batch_size` records."""

    batch_size: int
    epochs: int
    steps: int | None


@dataclass(frozen=True, kw_only=True)
class CohortRule:
    """How cohorts are asked to be drawn.

    Attributes:
        sampling: The scheme.
        cohort: Clients in a cohort, expected.
        max_cohort: Clients in a cohort at most, for truncated Poisson cohorts; None: follows from the others.
    """

    sampling: Sampling
    cohort: int
    max_cohort: int | None = None


@dataclass(frozen=True, kw_only=True)
class StrategyTraits:
    """What the server's strategy needs of a round.

    Attributes:
        name: As the experiment has it.
        linear: Whether the weighted mean of the updates is enough.
        needs_initial_loss: Whether clients report the loss of the model that they received.
        linear_ones: Names of the strategies that are linear, for messages.
    """

    name: str
    linear: bool
    needs_initial_loss: bool
    linear_ones: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What the experiment file says, with every default: all of it is public.

    Attributes:
        rounds: Of the whole run, 1 or more.
        rule: How cohorts are drawn.
        clients: How many there are; None: the data decide.
        weighting: What a client counts in a mean: "examples" or "uniform".
        strategy: What the server makes of a round's updates.
        engine: What plays the clients: "local", "ray" or "sequential".
        noise: Where noise comes from.
        arithmetic: How noise is added.
        client_evaluation: Which clients evaluate the model: "none", "cohort" or "all".
        held_out: Share of a client's examples that it doesn't train on, from 0, below 1.
        work: Of a client in a round.
        secagg_clip: Largest magnitude of a coordinate in secure aggregation; None: sums are taken in clear.
        own_data: Whether clients bring their own data, so that nobody else knows how many examples they have.
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
        path: Of the key, such as `("server", "sampling")`.
        value: Of the key.
        message: What is wrong with it, and what is allowed.
    """

    path: tuple[str, ...]
    value: Any
    message: str
