"""A round's sum with its row of correlated noise, as an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from fedsim.privacy.events import Event, Noise, Relation, Sampling, Unit


class MatrixTerms(NamedTuple):
    """Terms that rounds with correlated noise share."""

    strategy: str
    rounds: int
    relation: Relation
    sum_sensitivity: float
    sensitivity: float
    noise_multiplier: float
    bands: int | None
    buffers: int | None
    separation: int
    participations: int
    sampling: Sampling
    clients: int
    cohort: int


@dataclass(frozen=True, kw_only=True)
class MatrixEvent(Event):
    """One round of central client-level privacy by correlated noise: a cohort's sum, and one row of the noise.

    Together the rounds are one Gaussian mechanism. The event does not contain the cohort or its size.

    Attributes:
        strategy: Name of the strategy, the matrix C that correlates the noise.
        round: From 1; the row of C.
        rounds: Planned rounds: the rows of C.
        unit: A client, with all its participations.
        sum_sensitivity: L2 sensitivity of one round's sum, above 0: how far one participation moves it.
        sensitivity: L2 sensitivity of C x to a client with all its participations, x being the rounds' sums.
        noise_multiplier: Standard deviation of the noise before it is correlated, over `sensitivity`; above 0.
        bands: Bands of C, if it is banded, else None.
        buffers: Buffers of C, if it is a buffered linear Toeplitz matrix, else None.
        separation: A client takes part at most once in so many rounds.
        participations: Most rounds in which a client takes part.
        sampling: How the cohort is drawn.
        clients: The population, public.
        cohort: Expected clients in a cohort.
        denominator: Divisor of the noised sum, a public constant.
    """

    _kinds: ClassVar[dict[str, Any]] = {
        "unit": Unit,
        "relation": Relation,
        "sampling": Sampling,
        "noise": Noise,
    }

    mechanism: str
    strategy: str
    round: int
    rounds: int
    unit: Unit
    relation: Relation
    sum_sensitivity: float
    sensitivity: float
    noise_multiplier: float
    bands: int | None
    buffers: int | None
    separation: int
    participations: int
    sampling: Sampling
    clients: int
    cohort: int
    denominator: float
    noise: Noise

    def terms(self) -> MatrixTerms:
        """Return the terms that the accountant needs."""
        return MatrixTerms(**{name: getattr(self, name) for name in MatrixTerms._fields})
