"""A round's sum with its row of correlated noise, as an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from fedsim.privacy.events import Event, Noise, Relation, Sampling, Unit


class MatrixTerms(NamedTuple):
    """What rounds with correlated noise have in common."""

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

    The rounds are one Gaussian mechanism together. Who was drawn, and how many, is not in it.

    Attributes:
        mechanism: What released it.
        strategy: What correlates the noise, by name: the matrix C.
        round: From 1; the row of C.
        rounds: How many are planned: the rows of C.
        unit: The privacy unit: a client, with all its participations.
        relation: Which data sets are neighbours.
        sum_sensitivity: L2 sensitivity of one round's sum, above 0: how far one participation moves it.
        sensitivity: L2 sensitivity of C x to a client with all its participations, x being the rounds' sums.
        noise_multiplier: Standard deviation of the noise before it is correlated, over `sensitivity`; above 0.
        bands: Of C, where it is banded, else None.
        buffers: Of C, where it is a buffered linear Toeplitz matrix, else None.
        separation: A client takes part at most once in so many rounds.
        participations: In how many rounds a client takes part at most.
        sampling: How the cohort is drawn.
        clients: The population, public.
        cohort: Clients in a cohort, expected.
        denominator: What the noised sum is divided by, a public constant.
        noise: Where the noise comes from.
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
        """Return what the accountant needs to know of it."""
        return MatrixTerms(**{name: getattr(self, name) for name in MatrixTerms._fields})
