"""Stochastic quantisation: to adjacent levels, unbiased, and within QSGD's error bound."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedsim.transforms import Transform, Values
from fedsim.transforms.quantise import Quantise

numbers = st.floats(-1000, 1000, width=32)


@given(arrays("float32", st.integers(1, 40), elements=numbers), st.integers(1, 300), st.integers(0, 2**32))
def test_each_coordinate_is_one_of_the_two_levels_around_it(update: Values, levels: int, seed: int) -> None:
    sent = Quantise(levels).apply(update.copy(), np.random.default_rng(seed))
    assert (sent.shape, sent.dtype) == (update.shape, update.dtype)
    norm = math.sqrt(math.fsum(float(x) ** 2 for x in update))
    if norm == 0:
        assert not sent.any()
        return
    exact, level = np.abs(update.astype(float)) * levels / norm, np.abs(sent.astype(float)) * levels / norm
    # Float32's, which is absolute below its smallest normal number.
    rounding = levels * (1e-7 + 2.0**-149 / norm)
    np.testing.assert_allclose(level, np.round(level), rtol=0, atol=rounding)
    assert (np.abs(level - exact) < 1 + rounding).all()
    assert (np.sign(sent) * np.sign(update) >= 0).all()


def test_by_hand() -> None:
    # The norm is 5, so levels are 2.5 apart: -3 lies a fifth of the way from -2.5 to -5, 4 three fifths from 2.5 to 5.
    update = np.array([-3.0, 4.0, 0.0])

    class Coins:
        def random(self, size: int) -> Values:
            return np.array([0.19, 0.61, 0.0])[:size]

    assert Quantise(2).apply(update, Coins()).tolist() == [-5.0, 2.5, 0.0]  # type: ignore[arg-type]
    assert isinstance(Quantise(), Transform)


UPDATE = np.random.default_rng(1).standard_normal(200)
REPEATS = 4000


def sent_by(apply: Callable[[Values, np.random.Generator], Values]) -> Values:
    draws = np.random.default_rng(2)
    return np.array([apply(UPDATE.copy(), draws) for _ in range(REPEATS)])


def largest_z(sent: Values, levels: int) -> float:
    """Return the largest deviation of a coordinate's mean, in standard errors of the fair rounding."""
    spacing = np.linalg.norm(UPDATE) / levels
    share = np.abs(UPDATE) / spacing % 1
    return float((np.abs(sent.mean(0) - UPDATE) / (spacing * np.sqrt(share * (1 - share) / REPEATS))).max())


def to_nearest(levels: int) -> Callable[[Values, np.random.Generator], Values]:
    spacing = np.linalg.norm(UPDATE) / levels
    return lambda update, draws: np.round(update / spacing) * spacing


@pytest.mark.parametrize("levels", [1, 4, 16])
def test_it_is_unbiased(levels: int) -> None:
    assert largest_z(sent_by(Quantise(levels).apply), levels) < 5  # of 200 coordinates: once in 10,000 tests
    assert largest_z(sent_by(to_nearest(levels)), levels) > 20  # the control: rounding to the nearest level


@pytest.mark.parametrize("levels", [1, 4, 64])
def test_its_error_is_within_the_bound(levels: int) -> None:
    error = np.square(sent_by(Quantise(levels).apply) - UPDATE).sum(1).mean() / np.square(UPDATE).sum()
    bound = min(UPDATE.size / levels**2, math.sqrt(UPDATE.size) / levels)
    assert 0.01 * bound < error <= bound
