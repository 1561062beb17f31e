"""Tails of the hypergeometric distribution, correct to about twelve digits for populations up to 10^9.

`math.lgamma` of 10^9 leaves five digits of a probability. So probabilities are quotients of three binomial ones, each
by the saddle-point expansion of Loader (2000, "Fast and Accurate Computation of Binomial Probabilities"), with small
terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_HALF_LOG_TAU = 0.5 * math.log(math.tau)
_NEGLIGIBLE = 1e-17  # relative to the sum so far: a tail is cut here, since its terms fall ever faster


@dataclass(frozen=True)
class Hypergeometric:
    """Number of marked clients among `drawn`, without replacement."""

    population: int  # at least 1
    marked: int  # 0 to `population`
    drawn: int  # 0 to `population`

    @property
    def least(self) -> int:
        """The smallest possible count."""
        return max(0, self.marked + self.drawn - self.population)

    @property
    def most(self) -> int:
        """The largest possible count."""
        return min(self.marked, self.drawn)

    def log_probability(self, count: int) -> float:
        """Return the natural logarithm of a count's probability; minus infinity for an impossible count."""
        if not self.least <= count <= self.most:
            return -math.inf
        if self.drawn == self.population or self.drawn == 0:
            return 0.0
        rate = self.drawn / self.population
        unmarked = self.population - self.marked
        return (
            _log_binomial(count, self.marked, rate)
            + _log_binomial(self.drawn - count, unmarked, rate)
            - _log_binomial(self.drawn, self.population, rate)
        )

    def at_least(self, count: int) -> float:
        """Return the probability of a count or more."""
        if count <= self.least:
            return 1.0
        if count > self.most:
            return 0.0
        if count <= self.mean:
            return 1.0 - self.at_most(count - 1)
        term = total = math.exp(self.log_probability(count))
        rest = self.population - self.marked - self.drawn
        while count < self.most and term > _NEGLIGIBLE * total:
            term *= (self.marked - count) / (count + 1) * ((self.drawn - count) / (rest + count + 1))
            total += term
            count += 1
        return total

    def at_most(self, count: int) -> float:
        """Return the probability of a count or less."""
        unmarked = Hypergeometric(self.population, self.population - self.marked, self.drawn)
        return unmarked.at_least(self.drawn - count)

    @property
    def mean(self) -> float:
        """The expected count."""
        return self.marked * self.drawn / self.population

    def exceeded_at_most(self, chance: float) -> int:
        """Return the smallest count exceeded with probability at most `chance` (below 1/2)."""
        low, high = max(self.least, math.floor(self.mean)) - 1, self.most  # not enough, enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at_least(middle + 1) <= chance else (middle, high)
        return high

    def reached_but_for(self, chance: float) -> int:
        """Return the largest count not reached with probability at most `chance` (below 1/2)."""
        unmarked = Hypergeometric(self.population, self.population - self.marked, self.drawn)
        return self.drawn - unmarked.exceeded_at_most(chance)


def _log_binomial(count: int, trials: int, rate: float) -> float:
    """Return the log of the binomial probability; `rate` is above 0 and below 1."""
    if count == 0:
        return trials * math.log1p(-rate)
    if count == trials:
        return trials * math.log(rate)
    return (
        _stirling_error(trials)
        - _stirling_error(count)
        - _stirling_error(trials - count)
        - _deviance(count, trials * rate)
        - _deviance(trials - count, trials * (1.0 - rate))
        + 0.5 * math.log(trials / (math.tau * count * (trials - count)))
    )


def _stirling_error(count: int) -> float:
    """Return log(count!) minus Stirling's approximation."""
    if count < 16:
        return math.lgamma(count + 1.0) - (count + 0.5) * math.log(count) + count - _HALF_LOG_TAU
    square = float(count) * count
    return (
        1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / 1188 / square) / square) / square) / square
    ) / count


def _deviance(count: float, mean: float) -> float:
    """Return `count log(count / mean) + mean - count` without cancellation if the two are close."""
    if abs(count - mean) >= 0.1 * (count + mean):
        return count * math.log(count / mean) + mean - count
    ratio = (count - mean) / (count + mean)
    total = (count - mean) * ratio
    term = 2.0 * count * ratio
    order = 1
    while True:
        term *= ratio * ratio
        following = total + term / (2 * order + 1)
        if following == total:
            return total
        total, order = following, order + 1
