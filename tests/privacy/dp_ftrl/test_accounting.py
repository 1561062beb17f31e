"""Correlated noise: one Gaussian mechanism, or sampled ones with groups; published values and traps."""

import math

import dp_accounting as dpa
import pytest

from fedsim.privacy.accounting import LocalSteps, known_cohort
from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.accounting import (
    Groups,
    NoisePlan,
    epsilon_amplified,
    epsilon_gaussian,
    plan,
)
from fedsim.privacy.dp_ftrl.factorization import (
    banded,
    buffered,
    independent,
    square_root_banded,
    square_root_toeplitz,
)
from fedsim.privacy.dp_ftrl.toeplitz import Objective


def test_one_gaussian_mechanism() -> None:
    assert epsilon_gaussian(4.0, 1e-6).pld == pytest.approx(1.06070, abs=5e-6)
    for noise in (0.3, 1.0, 20.0):
        exact, bound = (
            epsilon_gaussian(noise, 1e-5),
            known_cohort(LocalSteps(noise_multiplier=noise, rate=1, steps=1), 1, 1e-5),
        )
        assert bound.pld * 0.997 < exact.pld <= bound.pld
        assert exact.rdp == bound.rdp
    assert epsilon_gaussian(0.0, 1e-6).best == math.inf


def test_rounds_cost_nothing_but_sensitivity() -> None:
    # Independent noise of k participations is k Gaussian mechanisms, by either account.
    four = independent(Participation(rounds=100, separation=25))
    noise = 2.0  # of each row
    composed = known_cohort(LocalSteps(noise_multiplier=noise, rate=1, steps=1), 4, 1e-5)
    assert epsilon_gaussian(noise / four.sensitivity, 1e-5).pld == pytest.approx(composed.pld, rel=3e-3)


def tree_epsilon(noise: float, steps: int) -> float:
    accountant = dpa.rdp.RdpAccountant(neighboring_relation=dpa.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(dpa.SingleEpochTreeAggregationDpEvent(noise, steps))
    return float(accountant.get_epsilon(1e-5))


def test_tree_aggregation_is_worse_than_optimised_noise() -> None:
    for steps, epsilon in ((1, 0.7945), (16, 1.9142), (1024, 2.9680)):
        assert tree_epsilon(5.0, steps) == pytest.approx(epsilon, abs=5e-5)
        # A tree's client is in one node of each level: a Gaussian mechanism of that sensitivity.
        levels = int(math.log2(steps)) + 1
        assert epsilon_gaussian(5.0 / math.sqrt(levels), 1e-5).rdp == pytest.approx(epsilon, abs=5e-5)
    # Of 1,023 prefix sums the last is made of 10 nodes, each with noise 5; the root has so much less error.
    tree_error = 5.0 * math.sqrt(10)
    same_epsilon = 5.0 / math.sqrt(10 + 1)
    root = square_root_toeplitz(Participation(rounds=1023, most=1))
    assert same_epsilon * root.sensitivity * root.residual(Objective.MAX) < tree_error / 3


def test_groups_make_the_coins_come_up_more_often() -> None:
    # A setting of pfl-research: population 1e6, cohorts of 1e3, 1,500 rounds, 50 bands, epsilon 2; the noise that it
    # finds with the client rate for a rate.
    groups = Groups(count=50, rounds=1500, client_rate=1e-3)
    assert (groups.rate, groups.steps) == (pytest.approx(0.05), 30)
    taken_for_rate = Groups(count=1, rounds=groups.steps, client_rate=1e-3)
    assert epsilon_amplified(0.5315, taken_for_rate, 1e-6).best == pytest.approx(2.0, abs=0.02)
    assert epsilon_amplified(0.5315, groups, 1e-6).best == pytest.approx(12.0, abs=0.05)
    assert epsilon_gaussian(0.5315 / math.sqrt(30), 1e-6).best == pytest.approx(101, abs=0.5)


def test_one_band_is_dp_fedavg() -> None:
    groups = Groups(count=1, rounds=100, client_rate=0.1)
    assert epsilon_amplified(1.0, groups, 1e-5) == known_cohort(
        LocalSteps(noise_multiplier=1, rate=0.1, steps=100), 1, 1e-5
    )
    assert epsilon_amplified(1.0, groups, 1e-5).pld == pytest.approx(7.0466, abs=1e-4)


def test_the_last_turn_counts_though_it_is_not_for_all() -> None:
    assert [Groups(count=4, rounds=rounds, client_rate=0.1).steps for rounds in (1, 4, 5, 8, 9)] == [
        1,
        1,
        2,
        2,
        3,
    ]


def test_every_client_in_its_groups_turn_is_no_sampling() -> None:
    groups = Groups(count=4, rounds=12, client_rate=0.25)
    mechanism = banded(Participation(rounds=12, separation=4), 4)
    made = NoisePlan(mechanism=mechanism, noise_multiplier=1.0, groups=groups)
    assert made.released_models(1e-5).pld == pytest.approx(made.known_cohort(1e-5).pld, rel=3e-3)


def test_epsilon_in_noise_out() -> None:
    for epsilon in (0.5, 2.0, 8.0):
        noise = plan(independent(Participation(rounds=1)), epsilon, 1e-6).noise_multiplier
        assert 0.998 * epsilon < epsilon_gaussian(noise, 1e-6).best <= epsilon
        assert noise == pytest.approx(dpa.get_sigma_gaussian(epsilon, 1e-6), rel=1e-3)
    groups = Groups(count=5, rounds=50, client_rate=0.05)
    turns = independent(Participation(rounds=50, separation=5))
    noise = plan(turns, 2.0, 1e-5, 0.05).noise_multiplier
    assert 0.99 * 2 < epsilon_amplified(noise, groups, 1e-5).best <= 2


def test_plans_are_equally_private_and_their_errors_are_those_of_the_noise() -> None:
    pattern = Participation(rounds=128, separation=16)
    made = [
        plan(mechanism, 2.0, 1e-5)
        for mechanism in (independent(pattern), banded(pattern, 16), buffered(pattern))
    ]
    assert len({each.noise_multiplier for each in made}) == 1
    for each in made:
        assert each.known_cohort(1e-5) == each.released_models(1e-5)
        assert each.known_cohort(1e-5).best <= 2
        assert each.deviation == each.noise_multiplier * each.mechanism.sensitivity
        for objective in Objective:
            assert each.error(objective) == pytest.approx(each.deviation * each.mechanism.residual(objective))
    errors = [each.error(Objective.RMS) for each in made]
    assert errors[1] < errors[2] < 0.5 * errors[0]


@pytest.mark.slow
def test_with_amplification_bands_still_gain_at_equal_epsilon() -> None:
    rounds, rate = 60, 0.02
    single = plan(independent(Participation(rounds=rounds)), 4.0, 1e-5, rate)
    five = plan(banded(Participation(rounds=rounds, separation=5), 5), 4.0, 1e-5, rate)
    for each in (single, five):
        assert 3.99 < each.released_models(1e-5).best <= 4 < each.known_cohort(1e-5).best
        assert each.deviation == each.noise_multiplier * each.mechanism.once
    assert five.error(Objective.RMS) < 0.9 * single.error(Objective.RMS)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"count": 0}, "groups = 0: must be 1 or more"),
        ({"rounds": 0}, "rounds = 0: must be 1 or more"),
        ({"client_rate": 0.0}, "client rate = 0.0: must be above 0 and at most 1"),
        ({"client_rate": 0.3}, "can't come from one of 4 groups; at most 1 / groups = 0.25"),
    ],
)
def test_groups_that_are_refused(values: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Groups(**({"count": 4, "rounds": 12, "client_rate": 0.1} | values))  # type: ignore[arg-type]


def test_parameters_without_a_guarantee_are_refused() -> None:
    groups = Groups(count=4, rounds=12, client_rate=0.1)
    four = Participation(rounds=12, separation=4)
    for mechanism, says in (
        (
            buffered(four),
            "blt: amplification by 4 groups has a theorem for strategies of at most 4 bands alone",
        ),
        (square_root_toeplitz(four), "sqrt-toeplitz: amplification"),
        (square_root_banded(four, 5), "at most 4 bands alone"),
        (banded(Participation(rounds=12, separation=5), 4), "the pattern is 5 in 12"),
        (banded(Participation(rounds=13, separation=4), 4), "the pattern is 4 in 13"),
        (banded(Participation(rounds=12, separation=4, most=2), 4), "isn't Poisson-sampled"),
    ):
        with pytest.raises(ValueError, match=says):
            NoisePlan(mechanism=mechanism, noise_multiplier=1.0, groups=groups)
    with pytest.raises(ValueError, match="blt: amplification"):
        plan(buffered(four), 2.0, 1e-5, 0.1)
    for noise in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be 0 or more, and finite"):
            epsilon_gaussian(noise, 1e-5)
    for delta in (0.0, 1.0):
        with pytest.raises(ValueError, match="must be above 0 and below 1"):
            epsilon_gaussian(1.0, delta)
