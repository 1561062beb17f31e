"""Central client-level privacy: sums of a cohort's clipped updates and metrics, noised, over a public number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic, ExactSum
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.event import CohortEvent, Part, joint_noise_multiplier
from fedsim.privacy.dp_fedavg.metrics import BoundedMetric
from fedsim.privacy.events import Relation, Unit
from fedsim.privacy.randomness import Randomness

CENTRAL = (Relation.ZERO_OUT, Relation.ADD_OR_REMOVE_ONE)
UPDATE = "update"

Mean = dict[str, NDArray[np.float64]]
_NO_SUMS: Mapping[str, float] = {}


class Released(NamedTuple):
    """A round's release and its event.

    Attributes:
        mean: Noised sum over the public denominator, float64, by name.
        metrics: Estimates of the metrics' means, by name.
        event: For the ledger.
    """

    mean: Mean
    metrics: dict[str, float]
    event: CohortEvent


@dataclass(frozen=True, kw_only=True)
class CentralGaussian:
    """The release of DP-FedAvg (McMahan, Ramage, Talwar, Zhang 2018, arXiv 1710.06963, with equal weights).

    Metrics may be released beside the update, as further coordinates of one Gaussian query. Scaled to noise 1, a
    client moves it by at most sqrt(z_update^-2 + sum of z_i^-2), with z_i the metrics' noise multipliers. So the
    joint release has noise multiplier z if `z^-2 = z_update^-2 + sum of z_i^-2` (Andrew et al. 2021, arXiv
    1905.03871, Theorem 1, for one metric): a metric costs no epsilon, but the update gets z_update, which is more
    than z.

    Unit: a client. Neighbouring relation: zero-out or add-or-remove-one, with the same sensitivity; replacing a
    client moves the sums by twice as much. Add-or-remove-one protects the number of clients, so the cohorts' rate
    must be declared. Trusted: the server, which has the sums before the noise; against it, epsilon is infinite.
    Sensitive: the sums, the cohort and its size (the denominator is the expected size, a constant). Sums and noise
    are added on a grid, with noise calibrated to the rounded sums (`fedsim.privacy.arithmetic`).

    Attributes:
        sensitivity: How far one client moves the sum, in L2 norm: the clip norm, after rounding if there is any
            (`sensitivity_after_rounding`). Every client's update has weight 1.
        noise_multiplier: z, of everything released together, as accounted for. Above 0, and below that of the metrics
            together. Without metrics it is the standard deviation of the noise on the sum, over `sensitivity`.
        metrics: Metrics released with the update; their noise is drawn after the update's, in this order.
        cohorts: How cohorts are drawn.
        relation: Which data sets are neighbours.
        randomness: Draws the noise.
        arithmetic: How it is added.
        mechanism: Its name in the ledger.

    Raises:
        ValueError: A value is out of its range, the relation changes the sensitivity or protects a number that must
            be public, or the metrics alone use up the budget.

    >>> from fedsim.privacy.events import Sampling
    >>> loss = BoundedMetric(name="train-loss", bound=5.0, noise_multiplier=2.0)
    >>> cohorts = Cohorts(sampling=Sampling.POISSON, clients=1000, cohort=20)
    >>> release = CentralGaussian(
    ...     sensitivity=0.5, noise_multiplier=1.0, metrics=(loss,), cohorts=cohorts, relation=Relation.ZERO_OUT,
    ...     randomness=None,
    ... )
    >>> round(release.update_noise_multiplier, 7)
    1.1547005
    """

    sensitivity: float
    noise_multiplier: float
    metrics: tuple[BoundedMetric, ...] = ()
    cohorts: Cohorts
    relation: Relation
    randomness: Randomness
    arithmetic: Arithmetic = Arithmetic.GRID
    mechanism: str = "dp-fedavg"

    def __post_init__(self) -> None:
        check_central(self.relation, self.cohorts)
        for metric in self.metrics:
            check_part(metric.part)
        _check_split(self.noise_multiplier, self.metrics)
        check_part(self._update)

    @property
    def update_noise_multiplier(self) -> float:
        """z_update: standard deviation of the noise on the sum of updates, over `sensitivity`."""
        ratio = _share(self.noise_multiplier, self.metrics)
        return self.noise_multiplier / math.sqrt((1 - ratio) * (1 + ratio))

    @property
    def _update(self) -> Part:
        return Part(name=UPDATE, sensitivity=self.sensitivity, noise_multiplier=self.update_noise_multiplier)

    def release(
        self, total: Mapping[str, NDArray[Any]], round_: int, sums: Mapping[str, float] = _NO_SUMS
    ) -> Released:
        """Return the noised means of a round, and the event.

        An empty cohort's total is zeros; its noise is released and charged like any other's.

        Args:
            total: Sum of the cohort's clipped updates, float64, by name; of any shapes.
            round_: From 1.
            sums: Of the clients' terms (`shifted`) for each metric, by name; 0 without clients.

        Raises:
            ValueError: The total has no arrays, it or a sum is not finite, or sums and released metrics differ.
        """
        if sums.keys() != {metric.name for metric in self.metrics}:
            raise ValueError(
                f"sums of {', '.join(sorted(sums)) or 'nothing'}: must be of the metrics, "
                f"{', '.join(sorted(metric.name for metric in self.metrics)) or 'none'}"
            )
        update, parts = self._update, [metric.part for metric in self.metrics]
        mean = noised_mean(total, update, self.cohorts, self.randomness, self.arithmetic)
        metrics = {}
        for metric, part in zip(self.metrics, parts, strict=True):
            terms = {metric.name: np.array(sums[metric.name])}
            noised = noised_mean(terms, part, self.cohorts, self.randomness, self.arithmetic)
            metrics[metric.name] = metric.estimate(float(noised[metric.name]))
        return Released(mean, metrics, self._event(round_, (update, *parts)))

    def _event(self, round_: int, parts: tuple[Part, ...]) -> CohortEvent:
        """Return the event of a round."""
        cohorts = self.cohorts
        return CohortEvent(
            mechanism=self.mechanism,
            round=round_,
            unit=Unit.CLIENT,
            relation=self.relation,
            parts=parts,
            sampling=cohorts.sampling,
            clients=cohorts.clients,
            cohort=cohorts.cohort,
            max_cohort=cohorts.max_cohort,
            separation=cohorts.separation,
            denominator=float(cohorts.cohort),
            noise=self.randomness.source,
            rate=cohorts.declared,
        )


def _share(noise_multiplier: float, metrics: tuple[BoundedMetric, ...]) -> float:
    """Return z over the metrics' joint noise multiplier: 0 without metrics, 1 if they use up the budget."""
    return math.hypot(*(noise_multiplier / metric.noise_multiplier for metric in metrics))


def _check_split(noise_multiplier: float, metrics: tuple[BoundedMetric, ...]) -> None:
    """Raise `ValueError` for an invalid noise multiplier, or one that leaves no budget for the update."""
    if not metrics:
        return  # `check_part` says the rest
    if len({UPDATE, *(metric.name for metric in metrics)}) <= len(metrics):
        raise ValueError(
            f"metrics {', '.join(metric.name for metric in metrics)}: must differ from each other"
        )
    if not (noise_multiplier > 0 and _share(noise_multiplier, metrics) < 1):
        most = joint_noise_multiplier(metric.part for metric in metrics)
        said = ", ".join(f"{m.name}: {m.noise_multiplier:g}" for m in metrics)
        raise ValueError(
            f"noise multiplier = {noise_multiplier}: must be above 0 and below {most:g}, the joint one of the "
            f"released metrics ({said}), which would use up the budget"
        )


def noised_mean(
    total: Mapping[str, NDArray[Any]],
    part: Part,
    cohorts: Cohorts,
    randomness: Randomness,
    arithmetic: Arithmetic,
) -> Mean:
    """Return (a sum + Gaussian noise) / the expected cohort, float64, by name.

    Noise is drawn in the order of the arrays' names.

    Raises:
        ValueError: The total has no arrays, or is not finite.
    """
    if not total:
        raise ValueError(f"total of {part.name}: has no arrays; an empty cohort's are zeros")
    for name, array in total.items():
        if not np.isfinite(array).all():
            raise ValueError(f"total[{name!r}] of {part.name}: is not finite, so it was not clipped")
    dimension = sum(array.size for array in total.values())
    exact = ExactSum.of(part.sensitivity, part.noise_multiplier, dimension, arithmetic=arithmetic)
    noised = {}
    for name in sorted(total):
        noise = randomness.normals(total[name].size).reshape(total[name].shape)
        noise *= part.noise_multiplier * exact.sensitivity
        exact.add(total[name], noise)
        noise /= cohorts.cohort
        noised[name] = noise
    return {name: noised[name] for name in total}


def check_part(part: Part) -> None:
    """Raise `ValueError` for a noise multiplier or sensitivity that is not above 0 and finite."""
    if not 0 < part.sensitivity < math.inf:
        raise ValueError(f"sensitivity of {part.name} = {part.sensitivity}: must be above 0, and finite")
    if not 0 < part.noise_multiplier < math.inf:
        raise ValueError(
            f"noise multiplier of {part.name} = {part.noise_multiplier}: must be above 0, and finite"
        )


def check_central(relation: Relation, cohorts: Cohorts) -> None:
    """Raise `ValueError` for a relation under which a client changes the cohort rule or exceeds the clip norm."""
    if relation is Relation.ADD_OR_REMOVE_ONE and cohorts.declared is None:
        raise ValueError(
            f"relation = {relation}: the number of clients, {cohorts.clients}, is protected, and the cohorts' rate depends "
            f"on it; allowed: a declared rate, or {Relation.ZERO_OUT}"
        )
    if relation not in CENTRAL:
        raise ValueError(
            f"relation = {relation}: replacing a client moves the sum by twice the clip norm, and a metric's by its "
            f"bound; allowed: {', '.join(CENTRAL)}"
        )
