"""Sensitivity against every participation pattern, and common mistakes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.correlated_noise import Banded
from fedsim.privacy.dp_ftrl.factorization import (
    Factorization,
    alternatives,
    banded,
    buffered,
    square_root_banded,
    square_root_toeplitz,
)
from fedsim.privacy.dp_ftrl.toeplitz import sensitivity, square_root
from tests.privacy.dp_ftrl.oracles import dense, patterns, worst_norm

PATTERNS = [
    Participation(rounds=rounds, separation=separation, most=most)
    for rounds in (1, 2, 7, 9)
    for separation in (1, 2, 3, 4, 9)
    for most in (None, 1, 2, 3)
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_each_mechanisms_is_the_largest_over_all_patterns(pattern: Participation) -> None:
    for mechanism in alternatives(pattern):
        assert mechanism.sensitivity == pytest.approx(worst_norm(dense(mechanism.column), pattern), rel=1e-12)


@settings(max_examples=150)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.integers(1, 9),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_of_falling_columns_the_earliest_pattern_is_the_worst(
    steps: list[float], rounds: int, separation: int, most: int | None
) -> None:
    column = np.cumsum([*steps, 1.0])[::-1]  # falls, and isn't negative
    pattern = Participation(rounds=rounds, separation=separation, most=most)
    whole = np.concatenate([column[:rounds], np.zeros(max(rounds - len(column), 0))])
    assert sensitivity(column, pattern) == pytest.approx(worst_norm(dense(whole), pattern), rel=1e-12)


def test_of_a_column_that_rises_it_is_not_and_the_mechanism_is_refused() -> None:
    pattern = Participation(rounds=6, separation=2, most=2)
    column = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    earliest = dense(column)[:, [0, 2]].sum(axis=1)
    assert worst_norm(dense(column), pattern) > np.linalg.norm(earliest) + 0.1  # rounds 0 and 3 meet
    with pytest.raises(ValueError, match="4 bands, 2 participations 2 rounds apart: columns overlap"):
        sensitivity(column, pattern)
    # The same column is fine where columns can't overlap, or there is just one.
    for fine in (Participation(rounds=6, separation=4), Participation(rounds=6, most=1)):
        assert sensitivity(column, fine) == pytest.approx(worst_norm(dense(column), fine))


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 4), st.booleans())
def test_no_clients_updates_move_more_than_it(seed: int, dimensions: int, full: bool) -> None:
    generator = np.random.default_rng(seed)
    pattern = Participation(
        rounds=8, separation=int(generator.integers(1, 5)), most=int(generator.integers(1, 5))
    )
    choices = list(patterns(pattern))
    rounds = max(choices, key=len) if full else choices[generator.integers(len(choices))]
    updates = np.zeros((8, dimensions))
    for round_ in rounds:
        update = generator.standard_normal(dimensions)
        updates[round_] = update / np.linalg.norm(update)  # clipped to 1
    for mechanism in alternatives(pattern):
        assert np.linalg.norm(dense(mechanism.column) @ updates) <= mechanism.sensitivity * (1 + 1e-12)


def test_columns_that_overlap_add_up_to_more_than_their_squares() -> None:
    pattern = Participation(rounds=12, separation=3, most=4)
    for mechanism in (square_root_toeplitz(pattern), square_root_banded(pattern, 6), buffered(pattern, 2)):
        wrong = math.sqrt(4) * mechanism.once  # right for as many bands as the separation, or fewer
        assert wrong < 0.95 * mechanism.sensitivity
        assert mechanism.sensitivity == pytest.approx(worst_norm(dense(mechanism.column), pattern))
    within = square_root_banded(pattern, 3)
    assert within.sensitivity == pytest.approx(math.sqrt(4) * within.once)


def test_one_participation_is_not_several() -> None:
    # What was planned for one participation, run with four, costs so much more (it holds for whole columns alone).
    once = square_root_toeplitz(Participation(rounds=128, most=1))
    often = square_root_toeplitz(Participation(rounds=128, separation=32))
    assert often.sensitivity / once.sensitivity > 2


def test_negative_coefficients_have_a_theorem_if_columns_are_apart() -> None:
    pattern = Participation(rounds=7, separation=3)
    column = np.array([1.0, -0.5, 0.7])
    whole = np.concatenate([column, np.zeros(4)])
    assert sensitivity(column, pattern) == pytest.approx(worst_norm(dense(whole), pattern))
    mechanism = Factorization("own", Banded((1.0, -0.5, 0.7)), Participation(rounds=7, separation=2))
    with pytest.raises(ValueError, match="no theorem on the worst pattern"):
        mechanism.sensitivity  # noqa: B018


def test_the_square_root_squared_is_the_prefix_sum() -> None:
    root = dense(square_root(40))
    assert root @ root == pytest.approx(np.tril(np.ones((40, 40))), abs=1e-13)
    assert square_root(1).tolist() == [1.0]


def test_more_bands_than_the_separation_are_refused() -> None:
    with pytest.raises(ValueError, match="bands = 4: must be at most the separation, 3"):
        banded(Participation(rounds=12, separation=3), 4)
    assert banded(Participation(rounds=12, separation=3, most=1), 12).strategy.vectors == 11
    for build in (banded, square_root_banded):
        with pytest.raises(ValueError, match="bands = 0: must be 1 or more"):
            build(Participation(rounds=12), 0)
    with pytest.raises(ValueError, match="buffers = 9: must be 1 to 8"):
        buffered(Participation(rounds=12), 9)
