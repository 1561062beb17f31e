"""The release of DP-FTRL: each row once and in order, with the declared sensitivity."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.cohorts.rule import Cohorts, Participation
from fedsim.privacy.dp_ftrl.accounting import Groups, NoisePlan
from fedsim.privacy.dp_ftrl.factorization import banded, buffered
from fedsim.privacy.dp_ftrl.server import CorrelatedGaussian
from fedsim.privacy.events import Sampling
from fedsim.privacy.randomness import NumpyRandomness

ROUNDS, SEPARATION, SIZE, CLIP = 6, 2, 5, 0.25
PATTERN = Participation(rounds=ROUNDS, separation=SEPARATION)
BANDED = NoisePlan(mechanism=banded(PATTERN, SEPARATION), noise_multiplier=1.5)
COHORTS = Cohorts(sampling=Sampling.SEPARATED, clients=40, cohort=10, separation=SEPARATION)


def release(plan: NoisePlan = BANDED, **changes: Any) -> CorrelatedGaussian:
    arguments: dict[str, Any] = {
        "cohorts": COHORTS,
        "sum_sensitivity": CLIP,
        "size": SIZE,
        "randomness": lambda round_: NumpyRandomness(np.random.default_rng(round_)),
    }
    return CorrelatedGaussian(plan, **arguments | changes)


def all_rounds(totals: NDArray[np.float64], plan: NoisePlan = BANDED) -> NDArray[np.float64]:
    releases = release(plan)
    return np.array([releases.release(total, t)[0] for t, total in enumerate(totals, start=1)])


def test_rows_of_rounds_that_released_nothing_are_passed_over() -> None:
    totals = np.arange(ROUNDS * SIZE, dtype=float).reshape(ROUNDS, SIZE)
    whole, some = all_rounds(totals), release()
    for t in (2, 3, 6):
        np.testing.assert_array_equal(some.release(totals[t - 1], t)[0], whole[t - 1])


def test_it_goes_on_from_its_state() -> None:
    totals = np.ones((ROUNDS, SIZE))
    first = release()
    for t in (1, 2, 3):
        first.release(totals[t - 1], t)
    rest = release(state=first.state())
    np.testing.assert_array_equal(rest.release(totals[3], 4)[0], all_rounds(totals)[3])
    with pytest.raises(ValueError, match="row 4 of the noise has been made; each is released once"):
        rest.release(totals[3], 4)
    with pytest.raises(ValueError, match="belongs to another strategy"):
        release(NoisePlan(mechanism=banded(PATTERN, 1), noise_multiplier=1.0), state=first.state())


@pytest.mark.parametrize("mechanism", [banded(PATTERN, 2), buffered(PATTERN, 2)], ids=lambda m: m.name)
@given(
    first=st.integers(0, 1),
    updates=st.lists(
        st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=SIZE, max_size=SIZE),
        min_size=3,
        max_size=3,
    ),
)
def test_a_client_moves_the_whole_training_by_at_most_the_sensitivity(
    mechanism: Any, first: int, updates: list[list[float]]
) -> None:
    plan = NoisePlan(mechanism=mechanism, noise_multiplier=1e-3)
    totals = np.ones((ROUNDS, SIZE))
    with_client = totals.copy()
    for row, update in zip(range(first, ROUNDS, SEPARATION), updates, strict=True):
        with_client[row] += clip_jointly({"": np.array(update, np.float32)}, CLIP).arrays[""]
    moved = COHORTS.cohort * (all_rounds(with_client, plan) - all_rounds(totals, plan))
    column = mechanism.column
    matrix = np.array([[column[i - j] if i >= j else 0.0 for j in range(ROUNDS)] for i in range(ROUNDS)])
    declared = release(plan).release(totals[0], 1)[1].sensitivity
    assert np.linalg.norm(matrix @ moved) <= declared * (1 + 1e-9)


def test_the_sensitivity_is_reached_and_one_clip_norm_would_be_too_little() -> None:
    same = np.zeros((ROUNDS, SIZE))
    same[::SEPARATION, 0] = CLIP
    moved = COHORTS.cohort * (all_rounds(same) - all_rounds(np.zeros((ROUNDS, SIZE))))
    column = BANDED.mechanism.column
    matrix = np.array([[column[i - j] if i >= j else 0.0 for j in range(ROUNDS)] for i in range(ROUNDS)])
    declared = release().release(same[0], 1)[1].sensitivity
    assert np.linalg.norm(matrix @ moved) == pytest.approx(declared)
    assert declared > 1.5 * CLIP


def test_the_event_says_the_noise_over_all_participations_whatever_the_plan_is_for() -> None:
    groups = Groups(count=SEPARATION, rounds=ROUNDS, client_rate=0.25)
    plan = NoisePlan(mechanism=BANDED.mechanism, noise_multiplier=1.5, groups=groups)
    event = release(plan).release(np.zeros(SIZE), 1)[1]
    assert event.noise_multiplier == pytest.approx(1.5 * BANDED.mechanism.once / BANDED.mechanism.sensitivity)
    assert (event.bands, event.buffers, event.participations) == (2, None, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohorts": Cohorts(sampling=Sampling.POISSON, clients=40, cohort=10)}, "only b-min-sep sampling"),
        (
            {"cohorts": Cohorts(sampling=Sampling.SEPARATED, clients=40, cohort=10, separation=1)},
            "separation 1: the sensitivity is that of participations 2 rounds apart",
        ),
        ({"sum_sensitivity": 0.0}, "sensitivity of a sum = 0.0"),
        ({"plan": NoisePlan(mechanism=BANDED.mechanism, noise_multiplier=0.0)}, "noise multiplier = 0.0"),
    ],
)
def test_parameters_without_a_guarantee_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        release(**changes)


@pytest.mark.parametrize(
    ("total", "round_", "message"),
    [
        (np.full(SIZE, np.nan), 1, "not finite"),
        (np.zeros(SIZE + 1), 1, "of shape"),
        (np.zeros(SIZE), 0, "each is released once"),
        (np.zeros(SIZE), ROUNDS + 1, "planned for 6"),
    ],
)
def test_no_row_is_released_for_what_is_no_sum_or_no_round(
    total: NDArray[np.float64], round_: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        release().release(total, round_)
