"""Released metrics: the split of the budget, one client's influence, and the declared noise."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.mechanisms import loads
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.adaptive import BITS, AdaptiveClipping
from fedsim.privacy.dp_fedavg.event import Part, joint_noise_multiplier
from fedsim.privacy.dp_fedavg.gaussian import BoundedMetric, CentralGaussian, shifted
from fedsim.privacy.events import Relation, Sampling
from fedsim.privacy.randomness import NumpyRandomness
from fedsim.privacy.secagg.encoding import METRIC_BITS, Encoding

COHORT, STEP = 20, 2.0**-METRIC_BITS
ZERO = {"w": np.zeros(1)}
LOSS = BoundedMetric(name="train-loss", bound=5.0, noise_multiplier=2.0)
NUMBERS = st.floats(-1e308, 1e308) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 2.5, 5.0, 5e-324])


def released(*metrics: BoundedMetric, seed: int = 0, **changed: Any) -> CentralGaussian:
    usual = {
        "sensitivity": 0.5,
        "noise_multiplier": 1.0,
        "cohorts": Cohorts(sampling=Sampling.POISSON, clients=None, cohort=COHORT, declared=0.02),
        "relation": Relation.ADD_OR_REMOVE_ONE,
        "randomness": NumpyRandomness(np.random.default_rng(seed)),
    }
    return CentralGaussian(metrics=metrics, **usual | changed)


def of_noise(*multipliers: float) -> list[BoundedMetric]:
    return [
        BoundedMetric(name=f"m{number}", bound=1.0 + number, noise_multiplier=noise)
        for number, noise in enumerate(multipliers)
    ]


# --- the split ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "multipliers", "update"),
    [
        (1.0, (), 1.0),
        (1.0, (2.0,), 1.1547005),  # 1 - 1/4 = 3/4
        (1.0, (2.0, 2.0), 1.4142136),  # 1 - 1/4 - 1/4 = 1/2
        (1.0, (2.0, 4.0), 1.2060454),  # 1 - 1/4 - 1/16 = 11/16
        (0.8, (2.0, 2.0), 0.9701425),  # 25/16 - 1/2 = 17/16
    ],
)
def test_the_split_by_hand(noise: float, multipliers: tuple[float, ...], update: float) -> None:
    made = released(*of_noise(*multipliers), noise_multiplier=noise)
    assert made.update_noise_multiplier == pytest.approx(update, abs=5e-8)
    event = made.release(ZERO, 1, dict.fromkeys((m.name for m in made.metrics), 0.0)).event
    assert event.noise_multiplier == pytest.approx(noise, rel=1e-12)
    assert loads(event.dumps()) == event


@pytest.mark.parametrize(
    ("noise", "cohort", "split"), [(1.0, 100, 1.0050378), (1.0, 20, 1.1547005), (0.5, 100, 0.5006262)]
)
def test_a_bit_is_a_metric_whose_bound_is_1(noise: float, cohort: int, split: float) -> None:
    # What Andrew et al. (2021) have for sigma_b = m / 20: z_update = (z^-2 - (2 sigma_b)^-2)^(-1/2)
    bit = BoundedMetric(name="bit", bound=1.0, noise_multiplier=2 * cohort / 20)
    assert bit.sensitivity == 0.5
    assert released(bit, noise_multiplier=noise).update_noise_multiplier == pytest.approx(split, abs=5e-8)


def test_adaptive_clipping_and_a_metric_share_the_budget() -> None:
    made = AdaptiveClipping(
        noise_multiplier=1.0,
        bit_noise=1.0,
        metrics=(LOSS,),
        cohorts=Cohorts(sampling=Sampling.POISSON, clients=1000, cohort=COHORT),
        relation=Relation.ZERO_OUT,
        randomness=NumpyRandomness(np.random.default_rng(0)),
    )
    _, clip, metrics, event = made.release(0.3, ZERO, 1, {BITS: 0.0, "train-loss": 0.0}, sensitivity=0.4)
    assert event.parts == (
        Part(name="update", sensitivity=0.4, noise_multiplier=pytest.approx(math.sqrt(2))),  # 1 - 1/4 - 1/4
        Part(name="below-clip", sensitivity=0.5, noise_multiplier=2.0),
        Part(name="train-loss", sensitivity=2.5, noise_multiplier=2.0),
    )
    assert event.noise_multiplier == pytest.approx(1.0, rel=1e-12)
    assert clip == pytest.approx(0.3 * math.exp(-0.2 * (metrics[BITS] - 0.5)))
    with pytest.raises(
        ValueError, match=r"below 1\.41421, the joint one of .*\(below-clip: 2, train-loss: 2\)"
    ):
        replace(made, noise_multiplier=1.4143)


@given(
    noise=st.floats(1e-3, 1e3),
    over=st.lists(st.floats(1.0001, 1e6), min_size=1, max_size=5),
    share=st.floats(0.01, 0.999),
)
def test_all_parts_compose_to_the_given_budget(noise: float, over: list[float], share: float) -> None:
    scale = (
        noise * math.hypot(*(1 / each for each in over)) / share
    )  # the metrics' part of the budget is share^2
    made = released(*of_noise(*(scale * each for each in over)), noise_multiplier=noise)
    event = made.release(ZERO, 1, {metric.name: 0.0 for metric in made.metrics}).event
    assert joint_noise_multiplier(event.parts) == pytest.approx(noise, rel=1e-9)
    assert joint_noise_multiplier(event.parts[1:]) == pytest.approx(noise / share, rel=1e-9)


# --- what one client moves ------------------------------------------------------------------------------------


@given(values=st.lists(NUMBERS, max_size=8), own=NUMBERS, bound=st.floats(1e-9, 1e9))
def test_a_client_more_moves_the_sum_by_at_most_half_of_the_bound(
    values: list[float], own: float, bound: float
) -> None:
    metric = BoundedMetric(name="m", bound=bound, noise_multiplier=1.0)
    assert metric.part.sensitivity == bound / 2
    others, term = [shifted(value, bound) for value in values], shifted(own, bound)
    assert abs(term) <= metric.sensitivity
    # Added, removed, or zeroed out; but for the rounding of a float64 sum.
    moved = abs(math.fsum([*others, term]) - math.fsum(others))
    assert moved <= metric.sensitivity * (1 + 2**-52 * (len(others) + 2))


def test_the_sensitivity_is_reached_and_no_more_than_needed() -> None:
    assert [shifted(value, 5.0) for value in (-1.0, 0.0, 5.0, math.inf)] == [-2.5, -2.5, 2.5, 2.5]
    assert shifted(math.nan, 5.0) == 0.0


@given(own=NUMBERS, bound=st.floats(1e-9, 1e9))
def test_as_secure_aggregation_rounds_it_a_client_moves_the_sum_by_what_is_declared(
    own: float, bound: float
) -> None:
    metric = BoundedMetric(name="m", bound=bound, noise_multiplier=1.0, step=STEP)
    encoding = Encoding(1, cohort=3, metrics=("m",))
    vector = encoding.encode(np.zeros(1), 1, {"m": shifted(own, bound)}, np.random.default_rng(0))
    moved = abs(encoding.decode(vector, 1).metrics["m"])
    assert moved <= metric.sensitivity <= bound / 2 + STEP / 2


def test_rounding_that_goes_up_is_declared() -> None:
    bound = 2 * (1 + 0.75 * STEP)
    plain, rounded = (BoundedMetric(name="m", bound=bound, noise_multiplier=1.0, step=s) for s in (0.0, STEP))
    assert (plain.sensitivity, rounded.sensitivity) == (1 + 0.75 * STEP, 1 + STEP)
    assert BoundedMetric(name="m", bound=5.0, noise_multiplier=1.0, step=STEP).sensitivity == 2.5


# --- the noise ------------------------------------------------------------------------------------------------


def test_the_released_metric_is_the_mean_with_noise_of_the_declared_scale() -> None:
    made, trials = released(LOSS), 4000
    runs = [made.release(ZERO, round_, {"train-loss": 12.0}) for round_ in range(1, trials + 1)]
    metric = runs[0].event.parts[1]
    scale = metric.noise_multiplier * metric.sensitivity
    assert scale == 5.0
    noise = np.array([run.metrics["train-loss"] - 2.5 for run in runs]) * COHORT - 12.0
    assert stats.kstest(noise / scale, "norm").pvalue > 1e-3

    def p_value(scale: float) -> float:
        tail = stats.chi2.cdf(float((noise**2).sum()) / scale**2, trials)
        return 2 * min(tail, 1 - tail)

    assert p_value(scale) > 1e-3
    assert p_value(1.1 * scale) < 1e-6  # the controls: 10 % off
    assert p_value(0.9 * scale) < 1e-6
    updates = np.array([run.mean["w"][0] for run in runs])
    assert updates.std() * COHORT == pytest.approx(made.update_noise_multiplier * 0.5, rel=0.05)
    assert stats.pearsonr(noise, updates).pvalue > 1e-3


def test_an_empty_cohorts_metric_is_the_middle_and_noise() -> None:
    still = BoundedMetric(name="train-loss", bound=5.0, noise_multiplier=1e-9)
    made = released(still, noise_multiplier=1e-10)
    assert made.release(ZERO, 1, {"train-loss": 0.0}).metrics["train-loss"] == pytest.approx(2.5)
    # All of the cohort say 4, one of them says nothing.
    terms = 19 * shifted(4.0, 5.0) + shifted(math.nan, 5.0)
    assert made.release(ZERO, 1, {"train-loss": terms}).metrics["train-loss"] == pytest.approx(
        (19 * 4.0 + 2.5) / 20
    )


def test_without_metrics_nothing_is_drawn_for_them() -> None:
    plain, more = released().release(ZERO, 1), released(LOSS).release(ZERO, 1, {"train-loss": 0.0})
    assert plain.metrics == {}
    # The same draw, and more noise.
    assert more.mean["w"] == pytest.approx(plain.mean["w"] * 1.1547005, abs=1e-7)


# --- what can not be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "changed", "says"),
    [
        (
            of_noise(1.0),
            {},
            r"noise multiplier = 1\.0: must be above 0 and below 1, the joint one of .*\(m0: 1\)",
        ),
        (of_noise(1.4, 1.4), {}, r"below 0\.989949, the joint one of .*\(m0: 1\.4, m1: 1\.4\)"),
        (of_noise(2.0), {"noise_multiplier": math.nan}, "noise multiplier = nan"),
        (of_noise(2.0), {"noise_multiplier": 0.0}, r"noise multiplier = 0\.0"),
        (of_noise(0.0), {}, r"noise multiplier of m0 = 0\.0"),
        ([LOSS, LOSS], {}, "must differ from each other"),
        ([replace(LOSS, name="update")], {}, "must differ from each other"),
        ([LOSS], {"relation": Relation.REPLACE_ONE}, "and a metric's by its bound"),
    ],
)
def test_splits_without_a_budget_or_a_guarantee_are_refused(
    metrics: list[BoundedMetric], changed: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        released(*metrics, **changed)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, 5e-324])
def test_bounds_that_are_none_are_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="bound of m"):
        BoundedMetric(name="m", bound=bound, noise_multiplier=1.0)


def test_sums_of_other_metrics_and_ones_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="sums of nothing: must be of the metrics, train-loss"):
        released(LOSS).release(ZERO, 1)
    with pytest.raises(ValueError, match="sums of train-loss: must be of the metrics, none"):
        released().release(ZERO, 1, {"train-loss": 0.0})
    with pytest.raises(ValueError, match=r"total\['train-loss'\] of train-loss: is not finite"):
        released(LOSS).release(ZERO, 1, {"train-loss": math.nan})
