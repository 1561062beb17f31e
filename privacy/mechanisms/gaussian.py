"""Central client-level privacy: a cohort's clipped updates, summed, noised and divided by a public number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from privacy.cohorts import Cohorts
from privacy.ledger import CohortEvent, Noise, Part, Relation, Unit
from privacy.randomness import Randomness

CENTRAL = (Relation.ZERO_OUT, Relation.ADD_OR_REMOVE_ONE)
UPDATE = "update"

Mean = dict[str, NDArray[np.float64]]


class Released(NamedTuple):
    """What may leave the server, and what it was.

    Attributes:
        mean: Noised sum over the public denominator, float64, by name.
        event: For the ledger.
    """

    mean: Mean
    event: CohortEvent


@dataclass(frozen=True, kw_only=True)
class CentralGaussian:
    """The release of DP-FedAvg (McMahan, Ramage, Talwar, Zhang 2018, arXiv 1710.06963, with equal weights).

    Unit: a client. Neighbouring relation: zero-out or add-or-remove-one, whose sensitivity is alike. Trusted: the
    server, which has the sums before the noise; against it, epsilon is infinite. What stays sensitive: the sum, who
    was in the cohort and how many they were (the denominator is the expected number, a constant). The noise is that
    of ideal real numbers.

    Attributes:
        sensitivity: How far one client moves the sum, in L2 norm: what the clip reports, after rounding if there is
            any (`sensitivity_after_rounding`). Every client's update weighs 1.
        noise_multiplier: Standard deviation of the noise on the sum, over `sensitivity`; above 0.
        cohorts: How cohorts are drawn.
        relation: Which data sets are neighbours.
        randomness: Draws the noise.
        mechanism: Its name in the ledger.

    Raises:
        ValueError: A value is out of its range, or the relation is one under which the sensitivity is another.
    """

    sensitivity: float
    noise_multiplier: float
    cohorts: Cohorts
    relation: Relation
    randomness: Randomness
    mechanism: str = "dp-fedavg"

    def __post_init__(self) -> None:
        check_central(self.relation)
        check_part(self._part)

    @property
    def _part(self) -> Part:
        return Part(name=UPDATE, sensitivity=self.sensitivity, noise_multiplier=self.noise_multiplier)

    def release(self, total: Mapping[str, NDArray[Any]], round_: int) -> Released:
        """Return the noised mean of a round, and the event that says so.

        An empty cohort's total is zeros; its noise is released, and counts, like any other's.

        Args:
            total: Sum of the cohort's clipped updates, float64, by name; of any shapes.
            round_: From 1.

        Raises:
            ValueError: The total is of nothing, or not finite: what was clipped is.
        """
        mean = noised_mean(total, self._part, self.cohorts, self.randomness)
        return Released(
            mean,
            cohort_event(
                self.mechanism, round_, (self._part,), self.cohorts, self.relation, self.randomness.source
            ),
        )


def cohort_event(
    mechanism: str, round_: int, parts: tuple[Part, ...], cohorts: Cohorts, relation: Relation, noise: Noise
) -> CohortEvent:
    """Return the event of a round whose sums were noised just now."""
    return CohortEvent(
        mechanism=mechanism,
        round=round_,
        unit=Unit.CLIENT,
        relation=relation,
        parts=parts,
        sampling=cohorts.sampling,
        clients=cohorts.clients,
        cohort=cohorts.cohort,
        max_cohort=cohorts.max_cohort,
        separation=cohorts.separation,
        denominator=float(cohorts.cohort),
        noise=noise,
    )


def noised_mean(
    total: Mapping[str, NDArray[Any]], part: Part, cohorts: Cohorts, randomness: Randomness
) -> Mean:
    """Return (a sum + Gaussian noise) / the expected cohort, float64, by name.

    Arrays get their noise in the order of their names.

    Raises:
        ValueError: The total is of nothing, or not finite.
    """
    deviation = part.noise_multiplier * part.sensitivity
    if not total:
        raise ValueError(f"total of {part.name}: has no arrays; an empty cohort's are zeros")
    for name, array in total.items():
        if not np.isfinite(array).all():
            raise ValueError(f"total[{name!r}] of {part.name}: is not finite, so that it was not clipped")
    noised = {}
    for name in sorted(total):
        noise = randomness.normals(total[name].size).reshape(total[name].shape)
        noise *= deviation
        noise += total[name]
        noise /= cohorts.cohort
        noised[name] = noise
    return {name: noised[name] for name in total}


def check_part(part: Part) -> None:
    """Refuse a part whose noise or sensitivity is none.

    Raises:
        ValueError: It is.
    """
    if not 0 < part.sensitivity < math.inf:
        raise ValueError(f"sensitivity of {part.name} = {part.sensitivity}: must be above 0, and finite")
    if not 0 < part.noise_multiplier < math.inf:
        raise ValueError(
            f"noise multiplier of {part.name} = {part.noise_multiplier}: must be above 0, and finite"
        )


def check_central(relation: Relation) -> None:
    """Refuse a relation under which a client moves a sum by more than its clip norm.

    Raises:
        ValueError: It is one.
    """
    if relation not in CENTRAL:
        raise ValueError(
            f"relation = {relation}: replacing a client moves the sum by twice the clip norm, and the shifted bits' "
            f"by 1; allowed: {', '.join(CENTRAL)}"
        )
