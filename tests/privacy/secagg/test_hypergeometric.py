"""Tails against exact fractions, also for a population of 10^9, where `math.lgamma` leaves five digits."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.privacy.secagg.hypergeometric import Hypergeometric


def exactly(population: int, marked: int, drawn: int, least: int) -> Fraction:
    counts = range(max(least, 0, marked + drawn - population), min(marked, drawn) + 1)
    ways = sum(math.comb(marked, i) * math.comb(population - marked, drawn - i) for i in counts)
    return Fraction(ways, math.comb(population, drawn))


@given(st.data(), st.sampled_from([1, 7, 50, 1000, 10**6, 10**9]))
def test_tails_are_exact_to_twelve_digits(data: st.DataObject, population: int) -> None:
    marked = data.draw(st.integers(0, population))
    drawn = data.draw(st.integers(0, min(population, 120)))
    count = data.draw(st.integers(-1, drawn + 1))
    law = Hypergeometric(population, marked, drawn)
    above, below = (
        exactly(population, marked, drawn, count),
        1 - exactly(population, marked, drawn, count + 1),
    )
    assert law.at_least(count) == pytest.approx(float(above), rel=1e-12, abs=1e-14)
    assert law.at_most(count) == pytest.approx(float(below), rel=1e-12, abs=1e-14)
    if 1e-280 < above < 0.4:  # a small tail is right in itself, not only beside 1
        assert abs(Fraction(law.at_least(count)) / above - 1) < 1e-12


@given(st.data(), st.sampled_from([20, 300, 10**7]), st.sampled_from([2.0**-3, 2.0**-20, 2.0**-60]))
def test_quantiles_are_the_least_and_the_largest_that_will_do(
    data: st.DataObject, population: int, chance: float
) -> None:
    marked = data.draw(st.integers(0, population))
    drawn = data.draw(st.integers(1, min(population, 100)))
    law = Hypergeometric(population, marked, drawn)
    exceeded = next(c for c in range(drawn + 1) if exactly(population, marked, drawn, c + 1) <= chance)
    assert law.exceeded_at_most(chance) == exceeded
    reached = next(
        c for c in range(drawn, -1, -1) if 1 - exactly(population, marked, drawn, c) <= Fraction(chance)
    )
    assert law.reached_but_for(chance) == reached


def test_log_gamma_would_not_do() -> None:
    # The control: the textbook formula is off by more than a millionth where ours is right to twelve digits.
    population, marked, drawn, count = 10**9, 5 * 10**7, 92, 36
    exact = math.comb(marked, count) * Fraction(
        math.comb(population - marked, drawn - count), math.comb(population, drawn)
    )

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    naive = math.exp(
        log_choose(marked, count)
        + log_choose(population - marked, drawn - count)
        - log_choose(population, drawn)
    )
    ours = math.exp(Hypergeometric(population, marked, drawn).log_probability(count))
    assert abs(Fraction(naive) / exact - 1) > 1e-6
    assert abs(Fraction(ours) / exact - 1) < 1e-12
