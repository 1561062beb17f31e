"""The low bits of what client-level mechanisms release say no more than is claimed; added as floats, they do."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.accounting import central, local
from privacy.accounting.central import CohortSum
from privacy.arithmetic import Arithmetic
from privacy.audit import lowest_bit, measure
from privacy.cohorts import Cohorts
from privacy.events import Law, Relation, Sampling
from privacy.mechanisms import BITS, AdaptiveClipping, BoundedMetric, CentralGaussian, LocalNoise
from privacy.mechanisms.matrix import CorrelatedGaussian, Participation, Plan, banded
from privacy.randomness import NumpyRandomness

NOISE, DELTA, TRIALS = 4.0, 1e-5, 4000
EVERYONE = Cohorts(sampling=Sampling.FIXED, clients=1, cohort=1)  # a denominator of 1 leaves all bits
GAUSSIAN = central.known_cohort(CohortSum(noise_multiplier=NOISE, rate=1.0), 1, DELTA).epsilon

Once = Callable[[np.random.Generator, Arithmetic, bool], float]  # one number of one release


def update(generator: np.random.Generator, arithmetic: Arithmetic, present: bool) -> float:
    release = CentralGaussian(
        sensitivity=1.0,
        noise_multiplier=NOISE,
        cohorts=EVERYONE,
        relation=Relation.ZERO_OUT,
        randomness=NumpyRandomness(generator),
        arithmetic=arithmetic,
    )
    return float(release.release({"w": np.array([float(present)])}, 1).mean["w"][0])


def metric(generator: np.random.Generator, arithmetic: Arithmetic, present: bool) -> float:
    release = CentralGaussian(
        sensitivity=1.0,
        noise_multiplier=NOISE,
        metrics=(BoundedMetric(name="loss", bound=2.0, noise_multiplier=NOISE + 0.1),),
        cohorts=EVERYONE,
        relation=Relation.ZERO_OUT,
        randomness=NumpyRandomness(generator),
        arithmetic=arithmetic,
    )
    metrics = release.release({"w": np.zeros(1)}, 1, {"loss": float(present)}).metrics
    return metrics["loss"] - 1.0


def bits(generator: np.random.Generator, arithmetic: Arithmetic, present: bool) -> float:
    adaptive = AdaptiveClipping(
        noise_multiplier=NOISE,
        bit_noise=2.1,
        cohorts=EVERYONE,
        relation=Relation.ZERO_OUT,
        randomness=NumpyRandomness(generator),
        arithmetic=arithmetic,
    )
    return adaptive.release(1.0, {"w": np.zeros(1)}, 1, {BITS: present / 2}).metrics[BITS] - 0.5


def second_row(generator: np.random.Generator, arithmetic: Arithmetic, present: bool) -> float:
    pattern = Participation(rounds=4, separation=4)
    release = CorrelatedGaussian(
        Plan(mechanism=MECHANISM, noise_multiplier=NOISE),
        Cohorts(sampling=Sampling.SEPARATED, clients=4, cohort=1, separation=pattern.separation),
        sum_sensitivity=1.0,
        size=1,
        randomness=lambda round_: NumpyRandomness(generator),
        arithmetic=arithmetic,
    )
    release.release(np.zeros(1), 1)
    return float(release.release(np.array([float(present)]), 2).mean[0])


MECHANISM = banded(Participation(rounds=4, separation=4), 2)


def locally(law: Law) -> Once:
    def once(generator: np.random.Generator, arithmetic: Arithmetic, present: bool) -> float:
        client = LocalNoise(
            law=law,
            clip=1.0,
            noise_multiplier=NOISE,
            randomness=NumpyRandomness(generator),
            arithmetic=arithmetic,
        )
        # Half of what replacing a client may do, or a sixth: Laplace's float64s are multiples of 2^-50, as 1 is.
        own = 1.0 if law is Law.GAUSSIAN else 1 / 3
        return float(client.release({"w": np.array([own * present])}, 1, 0).arrays["w"][0])

    return once


@pytest.mark.parametrize(
    ("once", "claimed"),
    [
        pytest.param(update, GAUSSIAN, id="dp-fedavg"),
        pytest.param(metric, GAUSSIAN, id="metric"),
        pytest.param(bits, GAUSSIAN, id="adaptive-bits"),
        pytest.param(second_row, GAUSSIAN, id="dp-ftrl"),
        pytest.param(locally(Law.GAUSSIAN), local.gaussian(NOISE, 1, DELTA), id="local-gaussian"),
        pytest.param(locally(Law.LAPLACE), local.laplace(NOISE, 1), id="local-laplace"),
    ],
)
def test_the_lowest_bit_says_no_more_than_is_claimed(once: Once, claimed: object) -> None:
    epsilon = claimed if isinstance(claimed, float) else claimed.best  # type: ignore[attr-defined]

    def lowest(arithmetic: Arithmetic) -> Callable[[np.random.Generator, int, bool], NDArray[np.float64]]:
        def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
            return lowest_bit(np.array([once(generator, arithmetic, present) for _ in range(trials)]))

        return release

    generator = np.random.default_rng(11)
    delta = 0.0 if once.__qualname__.startswith("locally") and epsilon == local.laplace(NOISE, 1) else DELTA
    assert measure(lowest(Arithmetic.GRID), TRIALS, delta, generator).epsilon < epsilon
    assert measure(lowest(Arithmetic.FLOAT32), TRIALS, delta, generator).epsilon > 1.5 * epsilon
