"""Means over seeds, their intervals, and tests of differences.

Few seeds are usual, so intervals and tests use Student's t: they are exact for normal values, and undefined for one
seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Values over seeds.

    Attributes:
        n: Number of values.
        mean: Their mean.
        sd: Sample standard deviation; None with one value.
        half_width: Half-width of the mean's 95 % interval by Student's t; None with one value.
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None


@dataclass(frozen=True)
class Difference:
    """Difference of two groups' means, first minus second.

    Attributes:
        mean: The difference.
        half_width: Half-width of its 95 % interval; None: too few seeds.
        p: Two-sided p-value of a zero difference, unadjusted; None: too few seeds, or no spread.
        test: `paired t` if both have the same seeds, else `Welch t`; empty without p.
    """

    mean: float
    half_width: float | None = None
    p: float | None = None
    test: str = ""


def summarise(values: Sequence[float]) -> Summary:
    """Summarise a group's values; raises `ValueError` if there are none.

    >>> summary = summarise([0.90, 0.92, 0.94])
    >>> f"{summary.mean:.2f} +- {summary.half_width:.4f}"  # t(0.975; 2) 0.02 / sqrt(3) = 4.3027 * 0.011547
    '0.92 +- 0.0497'
    """
    from scipy import stats

    if not values:
        raise ValueError("there are no values")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(1, mean, None, None)
    sd = float(np.std(values, ddof=1))
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return Summary(n, mean, sd, t * sd / math.sqrt(n))


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Compare two groups' values by seed.

    With the same seeds the test is paired, since a seed fixes the partition and the first model of both. A group
    without values raises `ValueError`.
    """
    if not first or not second:
        raise ValueError("there are no values")
    if first.keys() == second.keys():
        return _paired([first[seed] - second[seed] for seed in first])
    return _welch(list(first.values()), list(second.values()))


def _paired(differences: Sequence[float]) -> Difference:
    from scipy import stats

    summary = summarise(differences)
    if summary.sd is None or summary.half_width is None or _is_flat(differences):
        return Difference(summary.mean, summary.half_width)
    t = summary.mean / (summary.sd / math.sqrt(summary.n))
    return Difference(
        summary.mean, summary.half_width, float(2 * stats.t.sf(abs(t), summary.n - 1)), "paired t"
    )


def _welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    from scipy import stats

    mean = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2 or (_is_flat(first) and _is_flat(second)):
        return Difference(mean)
    result = stats.ttest_ind(first, second, equal_var=False)
    interval = result.confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.high - interval.low) / 2, float(result.pvalue), "Welch t")


def _is_flat(values: Sequence[float]) -> bool:
    """Return whether values have no spread beyond rounding."""
    return float(np.ptp(values)) <= 1e-12 * max(1.0, float(np.max(np.abs(values))))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return adjusted p-values (Holm 1979); None values are not tests.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted
