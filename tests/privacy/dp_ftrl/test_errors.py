"""Errors against explicit matrices, published values and a second library."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.correlated_noise import Banded, Buffered
from fedsim.privacy.dp_ftrl.factorization import (
    Factorization,
    alternatives,
    banded,
    buffered,
    independent,
    square_root_banded,
    square_root_toeplitz,
)
from fedsim.privacy.dp_ftrl.toeplitz import Objective
from tests.privacy.dp_ftrl.oracles import dense


def error_of(mechanism: Factorization, objective: Objective) -> float:
    """Return the deviation of the noise on prefix sums, over noise multiplier times clip norm."""
    return mechanism.sensitivity * mechanism.residual(objective)


def once(rounds: int) -> Participation:
    return Participation(rounds=rounds, most=1)


@pytest.mark.parametrize(
    "pattern",
    [once(1), once(20), Participation(rounds=20, separation=6), Participation(rounds=21, most=3)],
    ids=str,
)
def test_errors_are_those_of_the_factorisation(pattern: Participation) -> None:
    for mechanism in alternatives(pattern):
        rows = np.linalg.norm(
            np.tril(np.ones((pattern.rounds,) * 2)) @ np.linalg.inv(dense(mechanism.column)), axis=1
        )
        assert error_of(mechanism, Objective.MAX) == pytest.approx(
            mechanism.sensitivity * rows.max(), rel=1e-12
        )
        assert error_of(mechanism, Objective.RMS) == pytest.approx(
            mechanism.sensitivity * np.sqrt(np.mean(rows**2)), rel=1e-12
        )


def test_independent_noise_grows_with_the_root_of_rounds() -> None:
    for rounds, error in ((16, 4), (128, 11.3137), (1024, 32)):
        assert error_of(independent(once(rounds)), Objective.MAX) == pytest.approx(error, abs=1e-4)
    four = independent(Participation(rounds=128, separation=32))
    assert (four.sensitivity, error_of(four, Objective.RMS)) == pytest.approx((2, 2 * math.sqrt(129 / 2)))


@pytest.mark.parametrize(
    ("rounds", "sensitivity", "error"),
    [(16, 1.39423, 1.94388), (128, 1.61558, 2.61010), (1024, 1.80902, 3.27255)],
)
def test_the_square_root(rounds: int, sensitivity: float, error: float) -> None:
    # Both factors are the root, so the error of one participation is its sensitivity squared.
    mechanism = square_root_toeplitz(once(rounds))
    assert mechanism.sensitivity == pytest.approx(sensitivity, abs=1e-5)
    assert error_of(mechanism, Objective.MAX) == pytest.approx(error, abs=1e-5)
    assert error_of(mechanism, Objective.MAX) == pytest.approx(mechanism.sensitivity**2, rel=1e-12)


@pytest.mark.parametrize(
    ("separation", "sensitivity", "last", "rms"), [(32, 2.9441, 6.347, 5.158), (16, 3.9435, 10.896, 8.333)]
)
def test_the_banded_square_root(separation: int, sensitivity: float, last: float, rms: float) -> None:
    mechanism = square_root_banded(Participation(rounds=128, separation=separation), separation)
    assert mechanism.participation.participations == 128 // separation
    assert mechanism.sensitivity == pytest.approx(sensitivity, abs=5e-5)
    assert error_of(mechanism, Objective.MAX) == pytest.approx(last, abs=5e-4)
    assert error_of(mechanism, Objective.RMS) == pytest.approx(rms, abs=5e-4)


# By jax_privacy 2.0.0: optimize_banded_toeplitz (mean of all squared errors, or the last), and buffered_toeplitz.optimize
# with `min_sep`, `max_participations` and a fixed number of buffers; the root of the loss.
BANDED = [
    (128, 32, Objective.RMS, 5.1305621671),
    (128, 16, Objective.RMS, 8.1248099956),
    (2000, 100, Objective.RMS, 20.2066930711),
    (128, 32, Objective.MAX, 6.1717122287),
    (128, 16, Objective.MAX, 10.2801012421),
    (2000, 100, Objective.MAX, 25.7638657727),
]
BUFFERED = [
    (128, 32, 1, Objective.RMS, 5.3704651578),
    (128, 16, 1, Objective.RMS, 8.6008800673),
    (2000, 100, 2, Objective.RMS, 21.3740160522),
    (2000, 342, 3, Objective.RMS, 9.1267725213),
    (2000, 342, 4, Objective.RMS, 9.1151735961),
    (128, 32, 2, Objective.MAX, 6.3793819365),
    (128, 16, 2, Objective.MAX, 10.7107590851),
    (2000, 100, 3, Objective.MAX, 26.9280570150),
    (2000, 342, 4, Objective.MAX, 10.6624720808),
]


@pytest.mark.parametrize(("rounds", "separation", "objective", "error"), BANDED)
def test_optimised_bands_are_a_second_librarys(
    rounds: int, separation: int, objective: Objective, error: float
) -> None:
    pattern = Participation(rounds=rounds, separation=separation)
    assert error_of(banded(pattern, separation, objective), objective) == pytest.approx(error, rel=1e-7)
    assert error_of(square_root_banded(pattern, separation), objective) > 1.005 * error


@pytest.mark.parametrize(("rounds", "separation", "buffers", "objective", "error"), BUFFERED)
def test_optimised_buffers_are_as_good_as_a_second_librarys(
    rounds: int, separation: int, buffers: int, objective: Objective, error: float
) -> None:
    found = error_of(
        buffered(Participation(rounds=rounds, separation=separation), buffers, objective), objective
    )
    assert 0.995 * error < found < error * (1 + 1e-6)


@pytest.mark.slow
def test_two_buffers_for_a_hundred_thousand_rounds() -> None:
    # jax_privacy's own golden test (buffered_toeplitz_test.py), by a closed form for one participation.
    found = buffered(once(100_000), 2, Objective.MAX)
    assert found.strategy.parameters == pytest.approx(
        [0.9999528892, 0.9857068667, 0.0122853238, 0.1878393665], rel=1e-5
    )


@pytest.mark.parametrize(
    ("rounds", "buffers", "ratio"),
    [(10, 1, 1.04), (100, 2, 1.03), (1000, 2, 1.04), (1000, 3, 1.03), (3000, 1, 1.31)],
)
def test_few_buffers_come_near_the_best_there_can_be(rounds: int, buffers: int, ratio: float) -> None:
    # The best of all factorisations is at most 1 + ln(n) / pi, and near it (Mathias 1993; 2404.16706, equation 2.8).
    error = error_of(buffered(once(rounds), buffers, Objective.MAX), Objective.MAX)
    assert 0.97 * ratio < error / (1 + math.log(rounds) / math.pi) < ratio
    best_toeplitz = error_of(square_root_toeplitz(once(rounds)), Objective.MAX)
    assert error >= best_toeplitz * (1 - 1e-9)


@pytest.mark.parametrize("objective", Objective)
def test_no_neighbour_of_an_optimum_is_better(objective: Objective) -> None:
    pattern = Participation(rounds=60, separation=6)
    best = banded(pattern, 6, objective)
    assert isinstance(best.strategy, Banded)
    for index in range(1, 6):
        for step in (-1e-3, 1e-3):
            moved = list(best.strategy.coefficients)
            moved[index] += step
            assert error_of(Factorization("", Banded(tuple(moved)), pattern), objective) > error_of(
                best, objective
            )
    blt = buffered(pattern, 1, objective)
    assert isinstance(blt.strategy, Buffered)
    for decay, scale in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        other = Buffered((blt.strategy.decays[0] + decay,), (blt.strategy.scales[0] + scale,))
        assert error_of(Factorization("", other, pattern), objective) > error_of(blt, objective)


@pytest.mark.parametrize("build", [lambda p: banded(p, 8), lambda p: buffered(p, 3)], ids=["banded", "blt"])
def test_the_search_gives_the_same_twice(build: Callable[[Participation], Factorization]) -> None:
    pattern = Participation(rounds=64, separation=8)
    assert np.array_equal(build(pattern).strategy.parameters, build(pattern).strategy.parameters)


def test_independent_noise_is_best_for_clients_in_every_round() -> None:
    always = Participation(rounds=16)
    for mechanism in (banded(always, 1), buffered(always, 2)):
        assert error_of(mechanism, Objective.RMS) == pytest.approx(
            error_of(independent(always), Objective.RMS), rel=1e-4
        )
    assert error_of(square_root_toeplitz(always), Objective.RMS) > 1.2 * error_of(
        independent(always), Objective.RMS
    )


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Banded(()), "the first must be 1"),
        (lambda: Banded((2.0, 1.0)), "the first must be 1"),
        (lambda: Banded((1.0, math.nan)), "must be finite"),
        (lambda: Buffered((0.5,), ()), "1 decays and 0 scales"),
        (lambda: Buffered((1.1,), (0.5,)), "must be 0 to 1"),
        (lambda: Buffered((-0.1,), (0.5,)), "must be 0 to 1"),
        (lambda: Buffered((0.5,), (-0.1,)), "must be 0 or more"),
        (lambda: Buffered((0.5, 0.2), (0.6, 0.6)), "at most 1 together"),
        (lambda: Buffered((math.nan,), (0.5,)), "must be 0 to 1"),
        (lambda: Buffered((0.5,), (math.nan,)), "must be 0 or more"),
    ],
)
def test_strategies_that_are_refused(build: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()
