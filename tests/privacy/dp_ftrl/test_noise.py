"""The streamed noise is C^-1 z, has its covariance, and continues from its state."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest

from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.correlated_noise import PIECE, Noise
from fedsim.privacy.dp_ftrl.factorization import (
    Factorization,
    alternatives,
    banded,
    buffered,
    independent,
    square_root_toeplitz,
)
from tests.privacy.dp_ftrl.oracles import dense

PATTERN = Participation(rounds=40, separation=8)
MECHANISMS = alternatives(PATTERN)
NAMES = [mechanism.name for mechanism in MECHANISMS]


def streamed(mechanism: Factorization, normals: NDArray[np.float64]) -> NDArray[np.float64]:
    noise = mechanism.noise(normals.shape[1])
    return np.stack([noise.next(row) for row in normals])


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=NAMES)
def test_it_solves_the_system_to_the_last_digits(mechanism: Factorization) -> None:
    normals = np.random.default_rng(0).standard_normal((40, 7))
    before = normals.copy()
    expected = np.linalg.solve(dense(mechanism.column), normals)
    assert np.abs(streamed(mechanism, normals) - expected).max() < 1e-12
    assert np.array_equal(normals, before)


def test_thousands_of_rows_stay_exact() -> None:
    pattern = Participation(rounds=3000, separation=300)
    for mechanism in (banded(pattern, 40), buffered(pattern, 3)):
        normals = np.random.default_rng(1).standard_normal((3000, 1))
        back = np.convolve(streamed(mechanism, normals)[:, 0], mechanism.column)[:3000]
        assert np.abs(back - normals[:, 0]).max() < 1e-12


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=NAMES)
def test_each_number_has_a_stream_of_its_own(mechanism: Factorization) -> None:
    # Longer than a piece: the same bits as each part for itself.
    normals = np.random.default_rng(2).standard_normal((5, PIECE + 3))
    whole = streamed(mechanism, normals)
    parts = [streamed(mechanism, normals[:, part]) for part in (slice(0, 10), slice(10, PIECE + 3))]
    assert np.array_equal(whole, np.concatenate(parts, axis=1))


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=NAMES)
@pytest.mark.parametrize("stop", [0, 1, 5, 13, 39, 40])
def test_it_goes_on_from_its_state_with_the_same_bits(mechanism: Factorization, stop: int) -> None:
    normals = np.random.default_rng(3).standard_normal((40, 6))
    whole = streamed(mechanism, normals)
    first = mechanism.noise(6)
    for row in normals[:stop]:
        first.next(row)
    state = first.state()
    for row in normals[stop:]:
        first.next(row)  # leaves the state alone
    for _ in range(2):  # the first leaves the state to the second as it was
        second = mechanism.noise(6, state)
        assert second.row == stop
        rest = [second.next(row) for row in normals[stop:]]
        assert np.array_equal(np.array(rest).reshape(-1, 6), whole[stop:])


def test_memory_is_a_vector_for_each_band_but_one_or_each_buffer() -> None:
    expected = {"independent": 0, "sqrt-toeplitz": 39, "banded-sqrt": 7, "banded": 7, "blt": 3}
    for mechanism in MECHANISMS:
        state = mechanism.noise(100).state()
        assert state["memory"].shape == (expected[mechanism.name], 100)
        assert state["memory"].nbytes == 800 * mechanism.strategy.vectors


def test_a_row_is_made_once_and_no_more_than_were_planned() -> None:
    noise = independent(Participation(rounds=2)).noise(3)
    noise.next(np.zeros(3))
    noise.next(np.zeros(3))
    with pytest.raises(ValueError, match="row 3: noise, and its sensitivity, are planned for 2"):
        noise.next(np.zeros(3))


@pytest.mark.parametrize("normals", [np.zeros(4), np.zeros((1, 3)), np.zeros(3, dtype=np.float32)])
def test_other_normals_are_refused(normals: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"where float64 of \(3,\) is needed"):
        independent(Participation(rounds=2)).noise(3).next(normals)


def test_a_state_of_something_else_is_refused() -> None:
    mine, other = banded(PATTERN, 4), banded(PATTERN, 5)
    state = mine.noise(6).state()
    for build, says in (
        (lambda: other.noise(6, state), "belongs to another strategy"),
        (lambda: mine.noise(7, state), r"float64 of shape \(3, 6\), where float64 of \(3, 7\)"),
        (lambda: mine.noise(6, state | {"memory": state["memory"].astype(np.float32)}), "float32 of shape"),
        (lambda: mine.noise(6, state | {"rows": np.array([41, 40])}), "after row 41 of 40"),
        (lambda: Noise(mine.strategy, 6, 50, state), "after row 0 of 40, where 50 rows are planned"),
    ):
        with pytest.raises(ValueError, match=says):
            build()


def largest_deviation(rows: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """Return how far a sample covariance is from what it should be, in standard deviations of its entries (Wishart)."""
    count = rows.shape[1]
    variances = np.diag(covariance)
    spread = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    return float(np.abs((rows @ rows.T / count - covariance) / spread).max())


@pytest.mark.parametrize("build", [lambda p: banded(p, 3), lambda p: buffered(p, 2), square_root_toeplitz])
def test_the_covariance_is_that_of_the_inverse(build: object) -> None:
    mechanism = build(Participation(rounds=8, separation=3))  # type: ignore[operator]
    normals = np.random.default_rng(4).standard_normal((8, 50_000))
    matrix = dense(mechanism.column)
    covariance = np.linalg.inv(matrix.T @ matrix)
    rows = streamed(mechanism, normals)
    assert largest_deviation(rows, covariance) < 4.5
    # Controls: independent noise, C instead of its inverse, 3 % too little.
    for control in (normals, matrix @ normals, 0.97 * rows):
        assert largest_deviation(control, covariance) > 6


def test_weighed_by_the_strategy_it_is_white_and_normal() -> None:
    mechanism = banded(Participation(rounds=8, separation=4), 4)
    rows = streamed(mechanism, np.random.default_rng(5).standard_normal((8, 20_000)))
    white = (dense(mechanism.column) @ rows).ravel()
    assert kstest(white, "norm").pvalue > 0.01
    assert kstest(1.03 * white, "norm").pvalue < 1e-6
    assert kstest(rows.ravel(), "norm").pvalue < 1e-6
