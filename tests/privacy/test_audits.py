"""The audit on the line of the client-level mechanisms as they are, and of the mistakes that others have made.

Two clients out of three have updates of zero; of the third the update is 5 on one weight, clipped to 1 (or 1, where it
is to be below the clip norm), or it is not there (or, locally, -5). What is measured is the log-likelihood ratio of what leaves, the best test there is.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.privacy.audit import Release, measure
from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg import accounting as central
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism
from fedsim.privacy.dp_fedavg.adaptive import BITS, AdaptiveClipping, shifted_bit
from fedsim.privacy.dp_fedavg.gaussian import BoundedMetric, CentralGaussian, shifted
from fedsim.privacy.events import Law, Relation, Sampling
from fedsim.privacy.local_dp import accounting as local
from fedsim.privacy.local_dp.client import LocalNoise
from fedsim.privacy.randomness import NumpyRandomness

TRIALS, DELTA = 12_000, 1e-3
NOISE = 3.0
EVERYONE = Cohorts(sampling=Sampling.POISSON, clients=None, cohort=3, declared=1.0)
CLAIMED = central.known_cohort(CohortMechanism(noise_multiplier=NOISE, rate=1.0), 1, DELTA).epsilon


def updates(present: bool, own: float = 5.0) -> list[dict[str, NDArray[np.float64]]]:
    return [{"w": np.zeros(1)}, {"w": np.zeros(1)}, *([{"w": np.array([own])}] if present else [])]


def dp_fedavg(
    noise: float, *, rate: float = 1.0, rounds: int = 1, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Release:
    """Return the log-likelihood ratio of all rounds' means; who is in a cohort is drawn with a rate.

    Each trial is a number of one vector, for noise is drawn for each number by itself.
    """

    def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        mechanism = CentralGaussian(
            sensitivity=1.0,
            noise_multiplier=noise,
            cohorts=EVERYONE,
            relation=Relation.ADD_OR_REMOVE_ONE,
            randomness=NumpyRandomness(generator),
        )
        clipped = np.concatenate([clip_jointly(update, 1.0).arrays["w"] for update in updates(present)])
        loss = np.zeros(trials)
        for round_ in range(1, rounds + 1):
            drawn = generator.random((trials, len(clipped))) < rate
            sums = 3 * mechanism.release({"w": drawn @ (clipped * weights[: len(clipped)])}, round_).mean["w"]
            loss += np.log1p(rate * np.expm1((2 * sums - 1) / (2 * NOISE**2)))
        return loss

    return release


BIT_NOISE, RATE = 1.52, 2.0


def adaptive(
    noise: float, *, bit: Callable[[float], float] = lambda shifted: shifted, noise_clip: float = 1.0
) -> Release:
    """Return the log-likelihood ratio of the mean and the next clip norm, from which the noised bits follow."""

    def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        mechanism = AdaptiveClipping(
            noise_multiplier=noise,
            bit_noise=BIT_NOISE,
            rate=RATE,
            cohorts=EVERYONE,
            relation=Relation.ADD_OR_REMOVE_ONE,
            randomness=NumpyRandomness(generator),
        )
        clipped = [clip_jointly(update, 1.0) for update in updates(present, own=1.0)]
        total = sum((c.arrays["w"] for c in clipped), np.zeros(1))
        bits = sum(bit(shifted_bit(c, 1.0)) for c in clipped)
        released = np.empty((trials, 2))
        for trial in range(trials):
            mean, clip, *_ = mechanism.release(1.0, {"w": total}, 1, {BITS: bits}, sensitivity=noise_clip)
            noised_bits = -3 * math.log(clip) / RATE  # as the quantile is 1/2
            released[trial] = mean["w"][0] * 3, noised_bits - 2 * bit(0.5)
        # Without the client, the sum and the bits are 0; with it, 1 and its bit. Each over its noise.
        moved = np.array([1.0, bit(0.5)])
        scales = np.array([mechanism.update_noise_multiplier * noise_clip, BIT_NOISE])
        return ((2 * released * moved - moved**2) / (2 * scales**2)).sum(axis=1)

    return release


def with_metric(noise: float, *, term: Callable[[float, float], float] = shifted) -> Release:
    """Return the log-likelihood ratio of the mean of updates and of a metric that takes most of the budget.

    The third client's update is clipped to 1, its metric to 5; the others' metrics are 1 and none.
    """
    metric = BoundedMetric(name="train-loss", bound=5.0, noise_multiplier=3.04)

    def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        mechanism = CentralGaussian(
            sensitivity=1.0,
            noise_multiplier=noise,
            metrics=(metric,),
            cohorts=EVERYONE,
            relation=Relation.ADD_OR_REMOVE_ONE,
            randomness=NumpyRandomness(generator),
        )
        total = sum((clip_jointly(update, 1.0).arrays["w"] for update in updates(present)), np.zeros(1))
        others = term(1.0, 5.0) + term(math.nan, 5.0)
        own = term(1e9, 5.0)
        sums = {"train-loss": others + (own if present else 0.0)}
        released = np.empty((trials, 2))
        for trial in range(trials):
            mean, metrics, _ = mechanism.release({"w": total}, 1, sums)
            released[trial] = mean["w"][0] * 3, (metrics["train-loss"] - 2.5) * 3 - others
        moved = np.array([1.0, own])
        scales = np.array([mechanism.update_noise_multiplier, metric.noise_multiplier * metric.sensitivity])
        return ((2 * released * moved - moved**2) / (2 * scales**2)).sum(axis=1)

    return release


def locally(law: Law, noise: float) -> Release:
    def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        client = LocalNoise(law=law, clip=1.0, noise_multiplier=noise, randomness=NumpyRandomness(generator))
        update = {"w": np.array([5.0 if present else -5.0])}
        return np.array([client.release(update, 1, 0).arrays["w"][0] for _ in range(trials)])

    return release


def epsilon_of(bound: object) -> float:
    assert bound is not None
    return bound.best  # type: ignore[attr-defined,no-any-return]


def check(name: str, honest: Release, claimed: float, *wrong: Release, trials: int = TRIALS) -> None:
    generator = np.random.default_rng([7, *name.encode()])
    found = measure(honest, trials, DELTA, generator).epsilon
    assert 0.2 * claimed < found < claimed
    for mistake in wrong:
        assert measure(mistake, trials, DELTA, generator).epsilon > claimed


def test_dp_fedavg_and_the_leaks_of_weights_by_examples_and_half_the_noise() -> None:
    # By examples, of which the third client has 910 of 1000, its update counts for 2.73 where it should for 1.
    by_examples = dp_fedavg(NOISE, weights=(0.135, 0.135, 2.73))
    half = dp_fedavg(NOISE / 2)
    check("dp-fedavg", dp_fedavg(NOISE), epsilon_of(CLAIMED), by_examples, half, trials=100_000)


def test_dp_fedavg_with_poisson_cohorts_and_a_client_that_is_always_in() -> None:
    release = CohortMechanism(noise_multiplier=NOISE, rate=0.25)
    claimed = epsilon_of(central.released_models(release, 2, DELTA).epsilon)
    half, always = dp_fedavg(NOISE / 2, rate=0.25, rounds=2), dp_fedavg(NOISE, rounds=2)
    check("poisson", dp_fedavg(NOISE, rate=0.25, rounds=2), claimed, half, always, trials=100_000)


@pytest.mark.slow
def test_adaptive_clipping_and_the_leaks_of_raw_bits_and_the_updated_clips_noise() -> None:
    # Raw bits of 0 or 1 move by 1 where the split takes 1/2. All three are below the clip norm, so that without noise
    # the next one is exp(-RATE / 2) of it.
    check(
        "adaptive",
        adaptive(NOISE),
        epsilon_of(CLAIMED),
        adaptive(NOISE, bit=lambda shifted: shifted + 0.5),
        adaptive(NOISE / 2),
    )
    # The clip norm that was updated already, for a split that leaves most of the budget to the update.
    generator = np.random.default_rng(9)
    updated = adaptive(2.0, noise_clip=math.exp(-RATE / 2))
    claimed = epsilon_of(
        central.known_cohort(CohortMechanism(noise_multiplier=2.0, rate=1.0), 1, DELTA).epsilon
    )
    assert measure(adaptive(2.0), TRIALS, DELTA, generator).epsilon < claimed
    assert measure(updated, TRIALS, DELTA, generator).epsilon > claimed


@pytest.mark.slow
def test_a_released_metric_and_the_leaks_of_unshifted_values_and_half_the_noise() -> None:
    def unshifted(value: float, bound: float) -> float:  # a client moves the sum by the whole bound
        return 0.0 if math.isnan(value) else min(max(value, 0.0), bound)

    wrong = with_metric(NOISE, term=unshifted), with_metric(NOISE / 2)
    check("metric", with_metric(NOISE), epsilon_of(CLAIMED), *wrong, trials=8000)


@pytest.mark.slow
@pytest.mark.parametrize("law", list(Law))
def test_local_noise_and_the_leak_of_a_sensitivity_of_one_clip_norm(law: Law) -> None:
    claimed = (
        local.epsilon_of(NOISE, 1, None).pld
        if law is Law.LAPLACE
        else epsilon_of(local.epsilon_of(NOISE, 1, DELTA))
    )
    check(f"local {law}", locally(law, NOISE), claimed, locally(law, NOISE / 2))
