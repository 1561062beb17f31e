"""Adaptive clipping: the clip norm follows a quantile of the updates' norms, within the same noise budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.clipping import Clipped
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.gaussian import BoundedMetric, CentralGaussian, shifted
from fedsim.privacy.events import Event, Relation
from fedsim.privacy.halves import Sums
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.ranges import check_positive

BITS = "below-clip"
LEAST, MOST = 1e-12, 1e12  # bounds of the clip norm: with zero updates only, it would shrink forever


class AdaptiveRelease(NamedTuple):
    """The release of a round (`Released`) and the clip norm of the next: the only state, as public as `mean`."""

    mean: Sums
    clip: float
    metrics: Mapping[str, float]
    event: Event


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """DP-FedAvg with clip norm C following a quantile (Andrew, Thakkar, McMahan, Ramaswamy 2021, arXiv 1905.03871).

    Each client also reports whether its update's norm is at most C, as b = 1 or 0, shifted to b - 1/2 = +-1/2. With a
    public m, `b~ = 1/2 + (sum of (b - 1/2) + N(0, sigma_b^2)) / m` estimates the fraction of norms below C, and
    `C <- C exp(-eta (b~ - gamma))`. The bit is a metric of bound 1 and noise multiplier 2 sigma_b, released with the
    updates and other metrics by one `CentralGaussian` of this round's C: noise multiplier z in all, if
    `z^-2 = z_update^-2 + (2 sigma_b)^-2` (plus the other metrics' terms), so the updates get z_update.

    Unit: a client. Neighbouring relation: zero-out or add-or-remove-one; replacing a client moves the bits by 1 and
    breaks the split. Trusted: the server. Sensitive: the sums, each client's bit, the cohort and its size. The clip
    norm is post-processing of releases and constants, also if a constant (`most`) bounds it.

    Attributes:
        noise_multiplier: z, of everything released together, as accounted for. Above 0 and below `2 bit_noise` (with
            other metrics, below their joint one).
        bit_noise: sigma_b, standard deviation of the noise on the sum of bits; the paper takes m / 20.
        quantile: gamma, above 0 and below 1.
        rate: eta, above 0.
        most: Upper bound of the next clip norm, a public constant, `LEAST` or more: secure aggregation truncates each
            coordinate to its range, silently changing updates of a larger norm.
        cohorts: How cohorts are drawn; m is the expected cohort. Further attributes are as in `CentralGaussian`.

    Raises:
        ValueError: A value is out of its range; with z of `2 sigma_b` or more the bits alone exceed the budget.

    >>> from fedsim.privacy.events import Sampling
    >>> cohorts = Cohorts(sampling=Sampling.POISSON, clients=10_000, cohort=100)
    >>> adaptive = AdaptiveClipping(
    ...     noise_multiplier=1.0, bit_noise=5.0, cohorts=cohorts, relation=Relation.ZERO_OUT, randomness=None
    ... )
    >>> round(adaptive.update_noise_multiplier, 7)
    1.0050378
    """

    noise_multiplier: float
    bit_noise: float
    quantile: float = 0.5
    rate: float = 0.2
    metrics: tuple[BoundedMetric, ...] = ()
    most: float = MOST
    cohorts: Cohorts
    relation: Relation
    randomness: Randomness
    arithmetic: Arithmetic = Arithmetic.GRID

    def __post_init__(self) -> None:
        self._of(1.0)  # refuses values that no theorem covers
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile = {self.quantile}: must be above 0 and below 1")
        check_positive("rate", self.rate)
        if not LEAST <= self.most <= MOST:
            raise ValueError(f"most = {self.most}: must be from {LEAST} to {MOST}")

    @property
    def update_noise_multiplier(self) -> float:
        """z_update: standard deviation of the noise on the sum of updates, over the clip norm."""
        return self._of(1.0).update_noise_multiplier

    def event(self, sensitivity: float, round_: int) -> Event:
        """Return the event of a round's release, from 1; `sensitivity` as in `release`."""
        return self._of(sensitivity).event(round_)

    def _of(self, sensitivity: float) -> CentralGaussian:
        bits = BoundedMetric(name=BITS, bound=1.0, noise_multiplier=2 * self.bit_noise)
        return CentralGaussian(
            sensitivity=sensitivity,
            noise_multiplier=self.noise_multiplier,
            metrics=(bits, *self.metrics),
            cohorts=self.cohorts,
            relation=self.relation,
            randomness=self.randomness,
            arithmetic=self.arithmetic,
            mechanism="dp-fedavg-adaptive",
        )

    def release(
        self,
        clip: float,
        total: Mapping[str, NDArray[Any]],
        round_: int,
        sums: Mapping[str, float],
        *,
        sensitivity: float | None = None,
    ) -> AdaptiveRelease:
        """Return the noised mean of a round, the next clip norm, and the event; arguments as in `CentralGaussian.release`.

        Args:
            clip: The norm that this round's updates were clipped to, above 0.
            total: Sum of the clipped updates.
            round_: From 1.
            sums: Of the clients' `shifted_bit`, named `BITS`, and of their terms for each other metric.
            sensitivity: How far one client moves the total; None: the clip norm. Rounding makes it more.

        Raises:
            ValueError: The total has no arrays or is not finite, the clip norm or the sensitivity is out of its
                range, or a sum is missing.
        """
        check_positive("clip norm", clip)
        mean, metrics, event = self._of(clip if sensitivity is None else sensitivity).release(
            total, round_, sums
        )
        moved = clip * math.exp(min(-self.rate * (metrics[BITS] - self.quantile), 100.0))
        return AdaptiveRelease(mean, min(max(moved, LEAST), self.most), metrics, event)


def shifted_bit(clipped: Clipped, clip: float) -> float:
    """Return a client's term in the sum of bits: 1/2 if its norm was at most the clip norm, else -1/2.

    An invalid update has no norm, and gives 0 as an absent client does. As secret as the update.
    """
    return shifted(math.nan if clipped.invalid else float(clipped.norm_before <= clip), 1.0)
