"""What a client releases in a round of DP-SGD: the batches, drawn by public values, and the event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Event, Noise, Relation, Sampling, Unit
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


class DpSgdTerms(NamedTuple):
    """Terms that the steps of an event share: a sampled Gaussian mechanism."""

    noise_multiplier: float
    rate: float
    max_batch: int | None
    records: int | None


@dataclass(frozen=True, kw_only=True)
class DpSgdEvent(Event):
    """One client's participation in one round: `steps` releases of a sum of sampled, clipped gradients.

    Attributes beside those of `Event`:
        client: The client's index.
        sensitivity: L2 sensitivity of each sum: the clip norm, above 0.
        noise_multiplier: Standard deviation of the noise on each sum, over `sensitivity`; at least 0.
        sampling: How a step's records are drawn.
        rate: Probability that a record is drawn for a step, above 0 and at most 1.
        max_batch: Most records in a step if `sampling` truncates, else None.
        records: The client's number of records, public; None if it is protected (add-or-remove-one).
        steps: Releases, at least 1.
    """

    _kinds: ClassVar[dict[str, Any]] = {"sampling": Sampling}

    mechanism: str
    round: int
    client: int
    unit: Unit
    relation: Relation
    sensitivity: float
    noise_multiplier: float
    sampling: Sampling
    rate: float
    max_batch: int | None
    records: int | None
    steps: int
    noise: Noise

    @property
    def released_by(self) -> int:
        """The client."""
        return self.client

    def terms(self) -> DpSgdTerms:
        """Return the terms that the accountant needs."""
        return DpSgdTerms(**{name: getattr(self, name) for name in DpSgdTerms._fields})

    def count(self) -> int:
        """Return the number of steps: each releases a sum."""
        return self.steps
