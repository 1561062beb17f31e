import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedsim.mechanisms import loads
from fedsim.privacy.cohorts.rule import Cohorts, roomy_cohort
from fedsim.privacy.dp_fedavg.event import CohortEvent, Part
from fedsim.privacy.dp_fedavg.gaussian import CentralGaussian
from fedsim.privacy.events import Noise, Relation, Sampling, Unit
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SystemRandomness

LEVEL = 1e-6  # some draws are the operating system's, and new each time
COHORTS = Cohorts(sampling=Sampling.POISSON, clients=1000, cohort=20)


def mechanism(randomness: Randomness, **changed: object) -> CentralGaussian:
    made = CentralGaussian(
        sensitivity=0.5,
        noise_multiplier=2.0,
        cohorts=COHORTS,
        relation=Relation.ZERO_OUT,
        randomness=randomness,
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def seeded(seed: int = 0) -> NumpyRandomness:
    return NumpyRandomness(np.random.default_rng(seed))


TOTAL = {"weight": np.arange(6.0).reshape(2, 3), "bias": np.array(7.0)}


@pytest.mark.parametrize("randomness", [seeded(), SystemRandomness()], ids=["seeded", "system"])
def test_the_noise_is_a_gaussian_of_the_declared_scale(randomness: Randomness) -> None:
    total = {"a": np.full(20_000, 3.0), "b": np.zeros((10, 1000))}
    mean, _, event = mechanism(randomness).release(total, 1)
    noise = np.concatenate([mean["a"] * 20 - 3.0, mean["b"].reshape(-1) * 20])
    scale = event.parts[0].noise_multiplier * event.parts[0].sensitivity
    assert scale == 1.0
    assert stats.kstest(noise / scale, "norm").pvalue > LEVEL
    assert stats.kstest(noise / (1.1 * scale), "norm").pvalue < LEVEL  # the control: 10 % off
    assert stats.pearsonr(noise[:15_000], noise[15_000:]).pvalue > LEVEL


def test_the_mean_is_of_the_expected_cohort_and_keeps_shapes() -> None:
    mean, *_ = mechanism(seeded(), noise_multiplier=1e-12).release(TOTAL, 1)
    assert mean["weight"] == pytest.approx(np.arange(6.0).reshape(2, 3) / 20)
    assert mean["bias"] == pytest.approx(7 / 20)
    assert [(array.dtype, array.shape) for array in mean.values()] == [(np.float64, (2, 3)), (np.float64, ())]


def test_an_empty_cohorts_noise_is_released_and_counts() -> None:
    mean, _, event = mechanism(seeded()).release({"a": np.zeros(1000)}, 3)
    assert mean["a"].std() == pytest.approx(1 / 20, rel=0.1)
    assert (
        event == mechanism(seeded(1)).release({"a": np.ones(1000)}, 3).event
    )  # it says nothing of the cohort


def test_the_event_says_what_was_done() -> None:
    cohorts = Cohorts(sampling=Sampling.TRUNCATED_POISSON, clients=1000, cohort=20, max_cohort=42)
    made = mechanism(SystemRandomness(), cohorts=cohorts)
    event = made.release(TOTAL, 7).event
    assert event == CohortEvent(
        mechanism="dp-fedavg",
        round=7,
        unit=Unit.CLIENT,
        relation=Relation.ZERO_OUT,
        parts=(Part(name="update", sensitivity=0.5, noise_multiplier=2.0),),
        sampling=Sampling.TRUNCATED_POISSON,
        clients=1000,
        cohort=20,
        max_cohort=42,
        separation=None,
        denominator=20.0,
        noise=Noise.SYSTEM,
    )
    assert event.noise_multiplier == 2.0
    assert loads(event.dumps()) == event


def test_where_the_number_of_clients_is_protected_the_event_has_the_declared_rate_instead() -> None:
    declared = Cohorts(sampling=Sampling.POISSON, clients=None, cohort=20, declared=0.02)
    event = mechanism(seeded(), cohorts=declared, relation=Relation.ADD_OR_REMOVE_ONE).release(TOTAL, 1).event
    assert (event.clients, event.rate, event.denominator) == (None, 0.02, 20.0)
    assert loads(event.dumps()) == event
    tree = event.to_json()
    assert (tree["clients"], tree["rate"]) == (None, 0.02)
    # Where the number is public, a line is what it was.
    public = mechanism(seeded()).release(TOTAL, 1).event.to_json()
    assert public["clients"] == 1000
    assert "rate" not in public


def test_same_seed_same_bits_in_any_order_of_the_arrays() -> None:
    first = mechanism(seeded()).release(TOTAL, 1).mean
    second = mechanism(seeded()).release(dict(reversed(TOTAL.items())), 1).mean
    assert all(np.array_equal(first[name], second[name]) for name in TOTAL)
    made = mechanism(seeded())
    assert not np.array_equal(made.release(TOTAL, 1).mean["weight"], made.release(TOTAL, 2).mean["weight"])


def test_the_total_is_not_touched() -> None:
    total = {name: array.copy() for name, array in TOTAL.items()}
    mechanism(seeded()).release(total, 1)
    assert all(np.array_equal(total[name], TOTAL[name]) for name in TOTAL)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"noise_multiplier": 0.0}, "noise multiplier of update = 0.0"),
        ({"noise_multiplier": math.nan}, "noise multiplier of update = nan"),
        ({"sensitivity": 0.0}, "sensitivity of update = 0.0"),
        ({"sensitivity": math.inf}, "sensitivity of update = inf"),
        ({"relation": Relation.REPLACE_ONE}, "replacing a client moves the sum by twice"),
        ({"relation": Relation.ADD_OR_REMOVE_ONE}, "the number of clients, 1000, is protected"),
    ],
)
def test_what_can_not_be_is_refused(changed: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mechanism(seeded(), **changed)


def test_a_total_that_was_not_clipped_is_refused() -> None:
    with pytest.raises(ValueError, match=r"total\['b'\] of update: is not finite"):
        mechanism(seeded()).release({"a": np.zeros(2), "b": np.array([np.nan])}, 1)
    with pytest.raises(ValueError, match="has no arrays; an empty cohort's are zeros"):
        mechanism(seeded()).release({}, 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cohort": 0}, "cohort = 0"),
        ({"cohort": 11}, "cohort = 11"),
        ({"max_cohort": 5}, "goes with truncated-poisson"),
        ({"sampling": Sampling.TRUNCATED_POISSON}, "max cohort = None"),
        (
            {"sampling": Sampling.TRUNCATED_POISSON, "max_cohort": 1},
            "must be the expected cohort, 2, or more",
        ),
        ({"separation": 2}, "goes with b-min-sep"),
        ({"sampling": Sampling.SEPARATED}, "separation = None"),
        (
            {"sampling": Sampling.SEPARATED, "separation": 6},
            "6 groups of 2 clients or more need more than 10",
        ),
        ({"declared": 0.2}, "declared rate = 0.2: needed where the number of clients is not given"),
        ({"clients": None}, "declared rate = None"),
        ({"clients": None, "declared": 0.0}, "declared rate = 0.0: must be above 0"),
        ({"clients": None, "declared": 1.1}, "declared rate = 1.1: must be above 0"),
        ({"clients": None, "declared": 0.2, "cohort": 0}, "cohort = 0: must be 1 or more"),
        (
            {"clients": None, "declared": 0.2, "sampling": Sampling.FIXED},
            "fixed cohorts follow from the number of clients; allowed: poisson",
        ),
    ],
)
def test_rules_for_cohorts_that_can_not_be(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cohorts(**{"sampling": Sampling.POISSON, "clients": 10, "cohort": 2} | fields)  # type: ignore[arg-type]


def test_the_rate_within_a_group_is_as_many_times_larger_as_there_are_groups() -> None:
    assert Cohorts(sampling=Sampling.POISSON, clients=100, cohort=5).rate == 0.05
    assert Cohorts(sampling=Sampling.SEPARATED, clients=100, cohort=5, separation=4).rate == 0.2
    declared = Cohorts(sampling=Sampling.POISSON, clients=None, cohort=5, declared=0.3)
    assert declared.rate == 0.3  # whatever the cohort, which is a constant of its own
    with pytest.raises(ValueError, match="their number protected"):
        _ = declared.population
    assert roomy_cohort(100, 10_000) == 150
    assert roomy_cohort(10, 10) == 10
    # Once in millions: the chance of a Poisson cohort above its room.
    assert stats.binom.sf(150, 10_000, 0.01) < 2e-6
