"""Sums and noise on one grid: exact post-processing of ideal noise, without a leak in the low bits."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from fedsim.privacy.arithmetic import SHARE, Arithmetic, ExactSum, Grid

numbers = st.floats(-1e6, 1e6)
vectors = arrays(np.float64, st.integers(1, 40), elements=numbers)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@given(vectors, st.integers(-20, 20), st.integers(0, 2**32))
def test_what_is_added_are_the_nearest_multiples_exactly(
    total: NDArray[np.float64], power: int, seed: int
) -> None:
    grid = Grid(2.0**power)
    noise = 1e3 * generator(seed).standard_normal(total.size)
    noised = grid.add(total, noise.copy())
    for s, n, both in zip(total, noise, noised, strict=True):
        rounded = Fraction(both) / Fraction(grid.step)
        assert rounded.denominator == 1
        parts = [Fraction(float(np.floor(x / grid.step + 0.5))) for x in (s, n)]
        assert rounded == sum(parts)  # no rounding in the addition
        assert abs(parts[0] - Fraction(s) / Fraction(grid.step)) <= Fraction(1, 2) * (1 + Fraction(1, 2**20))


@given(vectors, st.integers(-1000, 1000), st.integers(0, 2**32))
def test_rounding_commutes_with_a_translation_by_the_grid(
    total: NDArray[np.float64], steps: int, seed: int
) -> None:
    grid = Grid(2.0**-9)
    on_grid = np.round(total / grid.step) * grid.step
    noise = generator(seed).standard_normal(total.size)
    moved = grid.add(on_grid + steps * grid.step, noise.copy())
    assert np.array_equal(moved, grid.add(on_grid, noise.copy()) + steps * grid.step)


@given(vectors, st.floats(1e-6, 1e6), st.floats(1e-3, 1e9), st.sampled_from([1, 2]), st.data())
def test_neighbours_stay_as_close_on_the_grid_as_is_said(
    total: NDArray[np.float64], sensitivity: float, noise: float, order: int, data: st.DataObject
) -> None:
    exact = ExactSum.of(sensitivity, noise, total.size, order=order, arithmetic=Arithmetic.GRID)  # type: ignore[arg-type]
    assert exact.grid is not None
    total = total * sensitivity / 1e3
    way = data.draw(arrays(np.float64, total.size, elements=st.floats(-1, 1)))
    norm = np.linalg.norm(way, order)
    other = total + way * (sensitivity / norm if norm > 1e-3 else 0.0)
    apart = np.linalg.norm(other - total, order)
    rounded = [exact.grid.add(each, np.zeros(total.size)) for each in (total, other)]
    assert np.linalg.norm(rounded[0] - rounded[1], order) - apart <= exact.sensitivity - sensitivity
    if noise < 1e4:
        assert exact.sensitivity <= sensitivity * (1 + SHARE)


def test_float32_leaves_a_sum_as_it_is_added() -> None:
    exact = ExactSum.of(1.0, 1.0, 3, arithmetic=Arithmetic.FLOAT32)
    assert exact.grid is None
    assert exact.sensitivity == 1.0
    assert exact.add(np.full(3, 0.1), np.full(3, 0.2)).tolist() == [0.1 + 0.2] * 3


def test_beyond_what_float64_adds_exactly_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it must be below 2\.25e\+15, for float64 to add exactly"):
        Grid(1.0).add(np.array([2.0**51]), np.zeros(1))
    assert Grid(1.0).add(np.array([2.0**51 - 2]), np.zeros(1)) == 2.0**51 - 2
    with pytest.raises(ValueError, match="grid step = 0"):
        Grid.at_most(0.0)


def even(multiples: NDArray[np.float64]) -> float:
    """Return the p-value of even multiples being half of all."""
    return float(stats.binomtest(int((multiples % 2 == 0).sum()), multiples.size).pvalue)


def test_the_noise_has_no_favourite_multiples() -> None:
    """Normals of a lattice that is hardly finer than the grid, halves rounded to even, have: the control."""
    step, count = 2.0**-24, 400_000
    noise = generator(1).standard_normal(count)
    multiples = Grid(step).add(np.zeros(count), noise.copy()) / step
    assert even(multiples) > 1e-3
    assert stats.chisquare(np.bincount((multiples % 16).astype(int), minlength=16)).pvalue > 1e-3
    coarse = np.round(noise / step * 2) / 2  # as float32's normals between 1/2 and 1
    assert even(np.rint(coarse)) < 1e-9
    assert even(np.floor(coarse + 0.5)) > 1e-3
