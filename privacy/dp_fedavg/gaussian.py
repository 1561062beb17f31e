"""Central client-level privacy: sums of a cohort's clipped updates and metrics, noised, over a public number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic, ExactSum
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.event import CohortEvent, Part, joint_noise_multiplier
from fedsim.privacy.events import Relation, Unit
from fedsim.privacy.halves import Released, Sums
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.ranges import check_positive

CENTRAL = (Relation.ZERO_OUT, Relation.ADD_OR_REMOVE_ONE)
UPDATE = "update"
# The metric of a reply that says whether the update was below the clip norm: 1/2 or -1/2.
SHIFTED_BIT = "shifted-bit"

_NO_SUMS: Mapping[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class BoundedMetric:
    """A metric with its mean over a cohort released with the updates, within the same budget.

    A client's value x is clipped to [0, bound] and sent as x - bound/2, its *term*. With a public m,
    `bound/2 + (sum of the terms + noise) / m` estimates the mean; an absent client, or a NaN, counts as bound/2. A
    client moves the sum by at most bound/2 under zero-out and add-or-remove-one (twice that under replacement).
    Unshifted values would move it by `bound` (Andrew et al. 2021, arXiv 1905.03871, section 2, where the bit is a
    metric of bound 1).

    Attributes:
        name: Of the metric, in the ledger too.
        bound: Largest value that counts, in the metric's unit; above 0, finite, and no subnormal number, else
            `ValueError` is raised.
        noise_multiplier: Standard deviation of the noise on the sum, over `sensitivity`; above 0.
        step: Grid step that terms are rounded to before they are summed; 0: no rounding.
    """

    name: str
    bound: float
    noise_multiplier: float
    step: float = 0.0

    def __post_init__(self) -> None:
        if not 1e-300 <= self.bound < math.inf:
            raise ValueError(f"bound of {self.name} = {self.bound}: must be above 0, and finite")

    @property
    def sensitivity(self) -> float:
        """How far one client moves the sum: bound/2, or its rounded value if larger."""
        half = self.bound / 2
        return half if self.step == 0 else max(half, round(half / self.step) * self.step)

    @property
    def part(self) -> Part:
        """The sum's entry in the ledger."""
        return Part(name=self.name, sensitivity=self.sensitivity, noise_multiplier=self.noise_multiplier)


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
        if self.relation is Relation.ADD_OR_REMOVE_ONE and self.cohorts.declared is None:
            raise ValueError(
                f"relation = {self.relation}: the number of clients, {self.cohorts.clients}, is protected, and the cohorts' "
                f"rate depends on it; allowed: a declared rate, or {Relation.ZERO_OUT}"
            )
        if self.relation not in CENTRAL:
            raise ValueError(
                f"relation = {self.relation}: replacing a client moves the sum by twice the clip norm, and a metric's by "
                f"its bound; allowed: {', '.join(CENTRAL)}"
            )
        for metric in self.metrics:
            _check_part(metric.part)
        _check_split(self.noise_multiplier, self.metrics)
        _check_part(self._update)

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
        """Return the noised means of a round over the public denominator, float64, and the event.

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
        mean = self._noised_mean(total, self._update)
        metrics = {}
        for metric in self.metrics:
            noised = self._noised_mean({metric.name: np.array(sums[metric.name])}, metric.part)
            metrics[metric.name] = metric.bound / 2 + float(noised[metric.name])
        return Released(mean, metrics, self.event(round_))

    def _noised_mean(self, total: Mapping[str, NDArray[Any]], part: Part) -> Sums:
        """Return (a sum + Gaussian noise) / the expected cohort, by name; noise is drawn in the order of the names."""
        if not total:
            raise ValueError(f"total of {part.name}: has no arrays; an empty cohort's are zeros")
        for name, array in total.items():
            if not np.isfinite(array).all():
                raise ValueError(f"total[{name!r}] of {part.name}: is not finite, so it was not clipped")
        dimension = sum(array.size for array in total.values())
        exact = ExactSum.of(part.sensitivity, part.noise_multiplier, dimension, arithmetic=self.arithmetic)
        noised = {}
        for name in sorted(total):
            noise = self.randomness.normals(total[name].size).reshape(total[name].shape)
            noise *= part.noise_multiplier * exact.sensitivity
            exact.add(total[name], noise)
            noise /= self.cohorts.cohort
            noised[name] = noise
        return {name: noised[name] for name in total}

    def event(self, round_: int) -> CohortEvent:
        """Return the event of a round's release, from 1."""
        cohorts = self.cohorts
        return CohortEvent(
            mechanism=self.mechanism,
            round=round_,
            unit=Unit.CLIENT,
            relation=self.relation,
            parts=(self._update, *(metric.part for metric in self.metrics)),
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
    if not metrics:
        return  # `_check_part` says the rest
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


def _check_part(part: Part) -> None:
    check_positive(f"sensitivity of {part.name}", part.sensitivity)
    check_positive(f"noise multiplier of {part.name}", part.noise_multiplier)


def shifted_name(metric: str) -> str:
    """Return the name of a metric's term in a client's reply."""
    return f"shifted-{metric}"


def shifted(value: float, bound: float) -> float:
    """Return a client's term in the sum of a metric: at most bound/2 in magnitude, and as secret as the value.

    It is the value, clipped to [0, bound], minus bound/2; of NaN it is 0, as if the client were not there.

    >>> [shifted(value, 5.0) for value in (0.0, 2.0, 1e9, float("nan"))]
    [-2.5, -0.5, 2.5, 0.0]
    """
    if math.isnan(value):
        return 0.0
    return min(max(value, 0.0), bound) - bound / 2
