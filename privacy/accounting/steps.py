"""One participation of a client under DP-SGD, and the bounds on an epsilon, by adversary."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedsim.privacy.events import Relation
from fedsim.privacy.ranges import check_count, check_rate

SERVER = "server"
KNOWN_COHORT = "known-cohort"
RELEASED_MODELS = "released-models"


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """What one client releases in one participation: noised sums of clipped gradients over sampled batches.

    Unit: a record. Neighbouring relation: zero-out (one record's gradient becomes zero). The client's number of
    records is public, since `rate`, `steps` and `records` reveal it. Raises `ValueError` for a value out of its range.

    Attributes:
        noise_multiplier: Standard deviation of the noise on the sum, divided by the clip norm; 0 or more.
        rate: Probability that a record is in a batch (Poisson sampling), above 0 and at most 1.
        steps: Batches, 1 or more.
        max_batch: Most records in a batch; a larger one is cut to a uniformly random subset. None: no limit.
        records: Number of the client's records; needed with `max_batch`.
    """

    noise_multiplier: float
    rate: float
    steps: int
    max_batch: int | None = None
    records: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise multiplier = {self.noise_multiplier}: must be 0 or more, and finite")
        check_rate("rate", self.rate)
        check_count("steps", self.steps)
        check_count("records", self.records)
        check_count("max batch", self.max_batch)
        if self.max_batch is not None and self.records is None:
            raise ValueError(f"max batch = {self.max_batch}: needs the number of records")

    @property
    def truncated(self) -> bool:
        """Whether a batch can be truncated."""
        return self.max_batch is not None and self.records is not None and self.max_batch < self.records


@dataclass(frozen=True)
class Epsilon:
    """Two upper bounds on one epsilon; each is valid.

    Attributes:
        pld: By the privacy loss distribution, discretised pessimistically.
        rdp: By Renyi differential privacy; None where dp-accounting has no theorem.
    """

    pld: float
    rdp: float | None

    @property
    def best(self) -> float:
        """The smaller bound."""
        return self.pld if self.rdp is None else min(self.pld, self.rdp)


@dataclass(frozen=True)
class AdversaryCost:
    """Epsilon against one adversary.

    Attributes:
        epsilon: Two upper bounds; infinite if the adversary is trusted; None if there is no theorem.
        relation: Which data sets are neighbours; None without an epsilon.
        why: The reason if it is infinite or missing, or a note.
    """

    epsilon: Epsilon | None
    relation: Relation | None
    why: str = ""


class NoTheorem(ValueError):
    """No theorem gives an epsilon for this adversary, sampling and relation."""


def check_delta(delta: float) -> None:
    """Raise `ValueError` for a delta outside (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta}: must be above 0 and below 1")
