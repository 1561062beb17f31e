"""Sampling of a client's records for the steps of DP-SGD, by public values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Sampling
from fedsim.privacy.randomness import Randomness


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A client's batches in a round. All of it is public, except a protected number of records.

    Attributes:
        records: The client's records, at least 1.
        rate: Probability that a record is drawn for a step, above 0 and at most 1.
        steps: Steps in a round, at least 1.
        denominator: Divisor of a step's noised sum: never the number of records drawn, which is secret.
        max_batch: Most records in a step; None: no limit.
        declared: Whether rate, steps and denominator are constants that don't depend on the number of records.
    """

    records: int
    rate: float
    steps: int
    denominator: float
    max_batch: int | None = None
    declared: bool = False

    @classmethod
    def of(
        cls,
        records: int,
        batch_size: int,
        *,
        epochs: int = 1,
        steps: int | None = None,
        rate: float | None = None,
        max_batch: int | None = None,
    ) -> Self:
        """Return the batches of a client.

        By default a record is drawn with probability `batch_size / records`, at most 1, so that the batch has
        `min(batch_size, records)` records on average, which is the denominator; an epoch is
        `ceil(records / batch_size)` steps. With a public `rate` neither it nor the denominator, `batch_size`, depends
        on the records; with `steps` as well nothing does, as add-or-remove-one requires (`declared`).

        Args:
            records: The client's, at least 1.
            batch_size: Expected number of records in a step, at least 1.
            epochs: Passes in a round, if `steps` is not given.
            steps: Steps in a round.
            rate: Declared public sampling probability.
            max_batch: Most records in a step.
        """
        expected = min(batch_size, records)
        return cls(
            records=records,
            rate=expected / records if rate is None else rate,
            steps=steps or epochs * -(-records // batch_size),
            denominator=float(expected if rate is None else batch_size),
            max_batch=max_batch,
            declared=rate is not None and steps is not None,
        )

    @property
    def sampling(self) -> Sampling:
        """The scheme by which a step's records are drawn."""
        return Sampling.POISSON if self.max_batch is None else Sampling.TRUNCATED_POISSON

    def draw(self, randomness: Randomness) -> NDArray[np.int64]:
        """Draw the records of one step, maybe none, `(batch,)`, ascending.

        Poisson sampling, truncated to a uniformly random subset of `max_batch`.
        """
        drawn = np.flatnonzero(randomness.uniforms(self.records) < self.rate)
        if self.max_batch is not None and len(drawn) > self.max_batch:
            keys = randomness.uniforms(len(drawn))
            drawn = np.sort(drawn[np.argsort(keys, kind="stable")[: self.max_batch]])
        return drawn
