"""Released metrics: one number of each client, as a further coordinate of the cohort's query."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedsim.privacy.dp_fedavg.event import Part

SHIFTED_BIT = (
    "shifted-bit"  # the metric of a reply that says whether the update was below the clip norm: 1/2 or -1/2
)


def shifted_name(metric: str) -> str:
    """Return the name of a metric's term in a client's reply."""
    return f"shifted-{metric}"


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
        bound: Largest value that counts, in the metric's unit; above 0, finite, and no subnormal number.
        noise_multiplier: Standard deviation of the noise on the sum, over `sensitivity`; above 0.
        step: Grid step that terms are rounded to before they are summed; 0: no rounding.

    Raises:
        ValueError: The bound is out of its range.
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

    def estimate(self, noised_mean: float) -> float:
        """Return the estimate of the metric's mean, from the noised sum of terms over the expected cohort."""
        return self.bound / 2 + noised_mean


def shifted(value: float, bound: float) -> float:
    """Return a client's term in the sum of a metric: at most bound/2 in magnitude, and as secret as the value.

    | value | term |
    | --- | --- |
    | 0 to bound | value - bound/2 |
    | above, infinity | bound/2 |
    | below, minus infinity | -bound/2 |
    | NaN | 0, as if the client were not there |

    >>> [shifted(value, 5.0) for value in (0.0, 2.0, 1e9, float("nan"))]
    [-2.5, -0.5, 2.5, 0.0]
    """
    if math.isnan(value):
        return 0.0
    return min(max(value, 0.0), bound) - bound / 2
