"""A client's round of DP-SGD, as an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from fedsim.privacy.events import Event, Noise, Relation, Sampling, Unit


class DpSgdTerms(NamedTuple):
    """Terms that the steps of an event share: a sampled Gaussian mechanism."""

    noise_multiplier: float
    rate: float
    max_batch: int | None
    records: int | None


@dataclass(frozen=True, kw_only=True)
class DpSgdEvent(Event):
    """One client's participation in one round: `steps` releases of a sum of sampled, clipped gradients.

    Attributes:
        mechanism: What released it.
        round: From 1.
        client: The client's index.
        unit: The privacy unit: a record.
        relation: Which data sets are neighbours.
        sensitivity: L2 sensitivity of each sum: the clip norm, above 0.
        noise_multiplier: Standard deviation of the noise on each sum, over `sensitivity`; at least 0.
        sampling: How a step's records are drawn.
        rate: Probability that a record is drawn for a step, above 0 and at most 1.
        max_batch: Most records in a step if `sampling` truncates, else None.
        records: The client's number of records, public; None if it is protected (add-or-remove-one).
        steps: Releases, at least 1.
        noise: Where the noise comes from.
    """

    _kinds: ClassVar[dict[str, Any]] = {
        "unit": Unit,
        "relation": Relation,
        "sampling": Sampling,
        "noise": Noise,
    }

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
