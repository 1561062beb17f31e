"""Adaptive clipping: the split of the budget, the sign, and the limit of the clip norm."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedsim.mechanisms import loads
from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.adaptive import BITS, AdaptiveClipping, shifted_bit
from fedsim.privacy.dp_fedavg.event import CohortEvent, joint_noise_multiplier
from fedsim.privacy.events import Relation, Sampling
from fedsim.privacy.randomness import NumpyRandomness

ZERO = {"a": np.zeros(1)}


def adaptive(cohort: int = 100, seed: int = 0, **changed: object) -> AdaptiveClipping:
    made = AdaptiveClipping(
        noise_multiplier=1.0,
        bit_noise=cohort / 20,
        cohorts=Cohorts(sampling=Sampling.POISSON, clients=None, cohort=cohort, declared=0.01),
        relation=Relation.ADD_OR_REMOVE_ONE,
        randomness=NumpyRandomness(np.random.default_rng(seed)),
    )
    return replace(made, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("noise", "cohort", "split"), [(1.0, 100, 1.0050378), (1.0, 20, 1.1547005), (0.5, 100, 0.5006262)]
)
def test_the_split_of_the_budget(noise: float, cohort: int, split: float) -> None:
    # z_update = (z^-2 - (2 sigma_b)^-2)^(-1/2) with sigma_b = m / 20
    made = adaptive(cohort, noise_multiplier=noise)
    assert made.update_noise_multiplier == pytest.approx(split, abs=5e-8)
    event = made.release(1.0, ZERO, 1, {BITS: 0.0}).event
    assert event.noise_multiplier == pytest.approx(
        noise, rel=1e-12
    )  # what is accounted for is what was given
    assert [part.sensitivity for part in event.parts] == [1.0, 0.5]
    assert event.parts[1].noise_multiplier * event.parts[1].sensitivity == cohort / 20
    assert loads(event.dumps()) == event


@given(noise=st.floats(1e-3, 1e3), over=st.floats(1.0001, 1e6))
def test_the_parts_compose_to_the_given_budget(noise: float, over: float) -> None:
    made = adaptive(noise_multiplier=noise, bit_noise=noise * over / 2)
    event = made.release(1.0, ZERO, 1, {BITS: 0.0}).event
    assert joint_noise_multiplier(event.parts) == pytest.approx(noise, rel=1e-9)


@pytest.mark.parametrize("noise", [10.0, 11.0, 0.0, -1.0, math.nan])
def test_noise_at_or_above_twice_that_of_the_bits_is_refused(noise: float) -> None:
    with pytest.raises(
        ValueError, match=r"noise multiplier = .*below 10, the joint one of .*\(below-clip: 10\)"
    ):
        adaptive(noise_multiplier=noise)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"relation": Relation.REPLACE_ONE}, "a metric's by its bound"),
        ({"quantile": 1.0}, "quantile = 1.0"),
        ({"rate": 0.0}, "rate = 0.0"),
        ({"bit_noise": 0.0}, "noise multiplier of below-clip = 0.0"),
        ({"most": 0.0}, "most = 0.0"),
        ({"most": math.nan}, "most = nan"),
    ],
)
def test_what_can_not_be_is_refused(changed: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        adaptive(**changed)
    with pytest.raises(ValueError, match=r"clip norm = 0\.0"):
        adaptive().release(0.0, ZERO, 1, {BITS: 0.0})


def test_the_shifted_bit() -> None:
    below, at, above, none = (clip_jointly({"a": np.array([x])}, 2.0) for x in (1.0, 2.0, 3.0, math.nan))
    assert [shifted_bit(clipped, 2.0) for clipped in (below, at, above, none)] == [0.5, 0.5, -0.5, 0.0]


def test_the_update_is_the_papers() -> None:
    # 30 of 100 norms are below the clip: b~ = 0.3, and C exp(-0.2 (0.3 - 0.5)).
    near = adaptive(noise_multiplier=1e-9, bit_noise=1e-8).release(2.0, ZERO, 1, {BITS: 30 * 0.5 - 70 * 0.5})
    assert near.clip == pytest.approx(2.0 * math.exp(0.04), rel=1e-9)


def test_it_grows_where_norms_are_above_and_shrinks_where_they_are_below() -> None:
    assert adaptive().release(1.0, ZERO, 1, {BITS: -50.0}).clip > 1.05  # all of 100 were clipped
    assert adaptive().release(1.0, ZERO, 1, {BITS: 50.0}).clip < 0.95
    assert (
        adaptive(quantile=0.9).release(1.0, ZERO, 1, {BITS: 50.0}).clip > 0.96
    )  # it is nearly where it should be


def run(start: float, made: AdaptiveClipping, norms: NDArray[np.float64], sign: float = 1.0) -> list[float]:
    """Return the clip norms of rounds with update norms `(rounds, cohort)`; a sign of -1 is Flower's."""
    clip, clips = start, []
    for round_, drawn in enumerate(norms, 1):
        bits = sign * float((np.where(drawn <= clip, 0.5, -0.5)).sum())
        clip = made.release(clip, ZERO, round_, {BITS: bits}).clip
        clips.append(clip)
    return clips


@pytest.mark.parametrize("start", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_it_ends_at_the_quantile_of_log_normal_norms(start: float, quantile: float) -> None:
    norms = np.random.default_rng(1).lognormal(size=(200, 400))
    clips = run(start, adaptive(400, quantile=quantile), norms)
    target = stats.lognorm.ppf(quantile, 1.0)
    assert math.exp(np.log(clips[100:]).mean()) == pytest.approx(target, rel=0.1)
    assert clips[-1] == pytest.approx(target, rel=0.2)
    assert stats.lognorm.cdf(clips[-1], 1.0) == pytest.approx(quantile, abs=0.1)


def test_the_state_is_the_clip_norm_alone() -> None:
    norms = np.random.default_rng(2).lognormal(size=(20, 100))
    whole = run(5.0, adaptive(100), norms)
    made = adaptive(100)
    half = run(5.0, made, norms[:10])
    assert run(half[-1], made, norms[10:]) == whole[10:]


def test_updates_that_are_all_zero_do_not_shrink_it_to_nothing() -> None:
    made, clip = adaptive(20), 1e-11
    for round_ in range(1, 200):
        clip = made.release(clip, ZERO, round_, {BITS: 10.0}).clip
    assert clip >= 1e-12


def test_it_does_not_exceed_its_maximum() -> None:
    # All norms are far above: without a bound it follows them, with one it stays there, and what is released is the same.
    norms = np.full((40, 100), 50.0)
    assert run(0.5, adaptive(), norms)[-1] > 5.0
    clips = run(0.5, adaptive(most=1.0), norms)
    assert max(clips) == clips[-1] == 1.0
    first, bounded = (made.release(1.0, ZERO, 1, {BITS: -50.0}) for made in (adaptive(), adaptive(most=1.0)))
    assert first.clip > bounded.clip == 1.0
    assert (first.mean, first.event) == (bounded.mean, bounded.event)


def test_the_noise_is_of_the_clip_that_clipped_this_round() -> None:
    # All updates are clipped, so the next clip norm is 10 % larger; the noise must not be.
    total = {"a": np.zeros(20_000)}
    mean, clip, _, event = adaptive(cohort=10_000).release(1.0, total, 1, {BITS: -5000.0})
    assert clip == pytest.approx(math.exp(0.1), rel=0.05)
    scale = event.parts[0].noise_multiplier * event.parts[0].sensitivity
    assert scale == pytest.approx(1.0)
    assert stats.kstest(mean["a"] * 10_000 / scale, "norm").pvalue > 1e-3
    assert stats.kstest(mean["a"] * 10_000 / (scale * clip), "norm").pvalue < 1e-6  # the control


def test_rounding_makes_the_noise_more_and_not_the_next_clip() -> None:
    plain = adaptive().release(1.0, ZERO, 1, {BITS: 3.0})
    rounded = adaptive().release(1.0, ZERO, 1, {BITS: 3.0}, sensitivity=1.25)
    assert rounded.mean["a"] == pytest.approx(1.25 * plain.mean["a"])
    assert rounded.clip == plain.clip
    assert isinstance(rounded.event, CohortEvent)
    assert rounded.event.parts[0].sensitivity == 1.25
    assert rounded.event.noise_multiplier == plain.event.noise_multiplier
