"""What a client releases, and what it costs: the terms of the account."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """What one client releases in one participation: noised sums of clipped gradients over sampled batches.

    Unit: a record. Neighbouring relation: zero-out (one record's gradient becomes zero); how many records the
    client has is public, as `rate`, `steps` and `records` tell it.

    Attributes:
        noise_multiplier: Standard deviation of the noise on the sum, divided by the clip norm; 0 or more.
        rate: With which probability a record is in a batch, above 0 and at most 1; each by a coin of its own.
        steps: Batches, 1 or more.
        max_batch: How many records a batch has at most; of a larger one, a uniformly random subset of so many
            stays. None: as many as the coins say.
        records: How many the client has; needed with `max_batch`.
    """

    noise_multiplier: float
    rate: float
    steps: int
    max_batch: int | None = None
    records: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of its range.
        """
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise multiplier = {self.noise_multiplier}: must be 0 or more, and finite")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate = {self.rate}: must be above 0 and at most 1")
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: must be 1 or more")
        if self.records is not None and self.records < 1:
            raise ValueError(f"records = {self.records}: must be 1 or more")
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max batch = {self.max_batch}: must be 1 or more")
        if self.max_batch is not None and self.records is None:
            raise ValueError(f"max batch = {self.max_batch}: needs the number of records")

    @property
    def truncated(self) -> bool:
        """Whether a batch can come out larger than it may be."""
        return self.max_batch is not None and self.records is not None and self.max_batch < self.records


@dataclass(frozen=True)
class Epsilon:
    """Two upper bounds on one epsilon; each is valid.

    Attributes:
        pld: By the privacy loss distribution, rounded to the pessimistic side.
        rdp: By Renyi differential privacy; None where dp-accounting has no theorem.
    """

    pld: float
    rdp: float | None

    @property
    def best(self) -> float:
        """The smaller bound."""
        return self.pld if self.rdp is None else min(self.pld, self.rdp)


class NoTheorem(ValueError):
    """For this adversary, sampling and relation there is no theorem that gives an epsilon."""


def check_delta(delta: float) -> None:
    """Refuse a delta outside of (0, 1).

    Raises:
        ValueError: It is.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta}: must be above 0 and below 1")
