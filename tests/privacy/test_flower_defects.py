"""What Flower 1.42's own client-level privacy gets wrong: each of its defects, re-created, and what is here instead.

The defects were read and run in flwr 1.42.0 (`serverapp.strategy.dp_*`, `clientapp.mod`, `serverapp` accounting).
"""

import math
import pickle
import random

import dp_accounting as dpa
import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg import accounting as central
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism
from fedsim.privacy.dp_fedavg.adaptive import BITS, AdaptiveClipping, shifted_bit
from fedsim.privacy.dp_fedavg.gaussian import CentralGaussian
from fedsim.privacy.events import Relation, Sampling
from fedsim.privacy.local_dp import accounting as local
from fedsim.privacy.local_dp.client import LocalNoise
from fedsim.privacy.randomness import NumpyRandomness

COHORTS = Cohorts(sampling=Sampling.POISSON, clients=10_000, cohort=100)


def seeded() -> NumpyRandomness:
    return NumpyRandomness(np.random.default_rng(0))


def adaptive(cohorts: Cohorts = COHORTS) -> AdaptiveClipping:
    return AdaptiveClipping(
        noise_multiplier=1.0,
        bit_noise=cohorts.cohort / 20,
        cohorts=cohorts,
        relation=Relation.ZERO_OUT,
        randomness=seeded(),
    )


def test_accounting_without_amplification_says_654_9_where_poisson_cohorts_cost_1_83() -> None:
    # Its accountant: RDP of 1000 Gaussians.
    accountant = dpa.rdp.RdpAccountant()
    accountant.compose(dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(1.0), 1000))
    assert accountant.get_epsilon(1e-5) == pytest.approx(654.9, abs=0.05)
    ours = central.released_models(CohortMechanism(noise_multiplier=1.0, rate=0.01), 1000, 1e-5).epsilon
    assert ours is not None
    assert ours.pld == pytest.approx(1.828, abs=1e-3)


def test_fixed_cohorts_with_the_sensitivity_of_one_clip_norm_say_3_58_where_it_is_20_99() -> None:
    accountant = dpa.rdp.RdpAccountant(neighboring_relation=dpa.NeighboringRelation.REPLACE_ONE)
    event = dpa.SampledWithoutReplacementDpEvent(10_000, 100, dpa.GaussianDpEvent(1.0))
    accountant.compose(dpa.SelfComposedDpEvent(event, 1000))
    assert accountant.get_epsilon(1e-5) == pytest.approx(3.576, abs=1e-3)
    release = CohortMechanism(noise_multiplier=1.0, rate=0.01, sampling=Sampling.FIXED, clients=10_000)
    ours = central.released_models(release, 1000, 1e-5).epsilon
    assert ours is not None
    assert ours.rdp == pytest.approx(20.99, abs=5e-3)


def test_weights_by_examples_let_a_client_count_for_nine_of_ten() -> None:
    clipped = [clip_jointly({"w": np.full(4, 9.0)}, 1.0).arrays["w"] for _ in range(10)]
    weights = np.array([910] + [10] * 9) / 1000
    by_examples = sum(w * c for w, c in zip(weights, clipped, strict=True)) - sum(
        w * c for w, c in zip(weights[1:], clipped[1:], strict=True)
    )
    moved = float(np.linalg.norm(by_examples))
    assert moved == pytest.approx(0.91)
    # Its noise has a deviation of z C / 10, so that the real noise multiplier is 0.11, and epsilon 79 instead of 4.4.
    real = 1.0 / 10 / moved
    assert local.epsilon_of(real, 1, 1e-5).pld == pytest.approx(79, abs=1)
    assert local.epsilon_of(1.0, 1, 1e-5).pld == pytest.approx(4.377, abs=1e-3)
    # Here every client counts for one, and the noise is of what one moves.
    total = {"w": np.sum(clipped, axis=0)}
    without = {"w": np.sum(clipped[1:], axis=0)}
    cohorts = Cohorts(sampling=Sampling.FIXED, clients=10, cohort=10)
    means = []
    for each in (total, without):
        mechanism = CentralGaussian(
            sensitivity=1.0,
            noise_multiplier=1.0,
            cohorts=cohorts,
            relation=Relation.ZERO_OUT,
            randomness=seeded(),
        )
        means.append(mechanism.release(each, 1).mean["w"])
    assert np.linalg.norm(means[0] - means[1]) <= 0.1 * (1 + 1e-12)


def test_the_wrong_sign_makes_adaptive_clipping_run_away() -> None:
    norms = np.random.default_rng(1).lognormal(size=(200, 100))

    def end(start: float, update: float) -> float:
        """Return the clip norm after 200 rounds; `update` is the sign of the step."""
        clip = start
        for drawn in norms:
            part_clipped = float((drawn > clip).mean())
            clip *= math.exp(update * 0.2 * (part_clipped - 0.5))
        return clip

    # Flower: a bit of 1 means clipped, and yet clip *= exp(-rate (part clipped - target)).
    assert end(0.1, -1) < 1e-9
    assert end(1.2, -1) > 1e6
    assert end(0.1, +1) == pytest.approx(1.0, rel=0.2)
    for start in (0.1, 1.2):
        mechanism, clip = adaptive(), start
        for round_, drawn in enumerate(norms, 1):
            bits = sum(shifted_bit(clip_jointly({"w": np.array([norm])}, clip), clip) for norm in drawn)
            clip = mechanism.release(clip, {"w": np.zeros(1)}, round_, {BITS: bits}).clip
        assert clip == pytest.approx(1.0, rel=0.25)


def test_noise_of_the_clip_norm_that_was_updated_already() -> None:
    # All updates are below the clip norm, so the next one is smaller; the noise is of the one that clipped.
    mechanism = adaptive(Cohorts(sampling=Sampling.POISSON, clients=10_000, cohort=1000))
    mean, clip, _, event = mechanism.release(1.0, {"w": np.zeros(20_000)}, 1, {BITS: 500.0})
    assert clip == pytest.approx(math.exp(-0.1), rel=0.03)
    assert mean["w"].std() * 1000 == pytest.approx(mechanism.update_noise_multiplier, rel=0.02)
    assert mean["w"].std() * 1000 > 1.05 * clip * mechanism.update_noise_multiplier
    assert event.parts[0].sensitivity == 1.0


def test_an_update_of_zero_is_divided_by() -> None:
    zero = {"w": np.zeros(3, np.float32)}
    with pytest.raises(ZeroDivisionError):  # Flower: clip / norm on Python's floats
        min(1.0, 1.0 / float(np.linalg.norm(zero["w"])))
    clipped = clip_jointly(zero, 1.0)
    assert (clipped.norm_before, clipped.clipped, clipped.invalid) == (0.0, False, False)
    assert not clipped.arrays["w"].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_reaches_the_model(bad: float) -> None:
    update = np.array([1.0, bad])
    with np.errstate(invalid="ignore"):
        theirs = update * min(1.0, 1.0 / float(np.linalg.norm(update)))
    assert np.isnan(theirs).any()
    assert not clip_jointly({"w": update}, 1.0).arrays["w"].any()


def test_integer_arrays_fail_without_a_name() -> None:
    counter = np.array(7)
    with pytest.raises(TypeError):  # Flower multiplies in place
        counter *= 0.5
    with pytest.raises(ValueError, match=r"update\['bn.num_batches_tracked'\]: dtype int64 can't be clipped"):
        clip_jointly({"w": np.zeros(2), "bn.num_batches_tracked": counter}, 1.0)


def test_noise_comes_from_a_global_generator() -> None:
    def states() -> tuple[bytes, bytes]:
        numpy = pickle.dumps(np.random.get_state())  # noqa: NPY002 (the place in its numbers too)
        return numpy, repr(random.getstate()).encode()

    before = states()
    np.random.normal()  # noqa: NPY002  # Flower's add_gaussian_noise_inplace
    assert states() != before
    before = states()
    bits: list[NDArray[np.float64]] = []
    for _ in range(2):
        mechanism = CentralGaussian(
            sensitivity=1.0,
            noise_multiplier=1.0,
            cohorts=COHORTS,
            relation=Relation.ZERO_OUT,
            randomness=seeded(),
        )
        bits.append(mechanism.release({"w": np.zeros(5)}, 1).mean["w"])
    assert np.array_equal(*bits)
    assert states() == before


def test_the_classical_calibration_of_its_local_mod_is_too_little_above_1() -> None:
    # LocalDpMod: sqrt(2 ln(1.25 / delta)) / epsilon, for which there is a proof up to epsilon 1 alone.
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / 20
    assert local.epsilon_of(classical, 1, 1e-5).pld == pytest.approx(25.44, abs=0.01)
    ours = local.noise_for(20.0, 1, 1e-5)
    assert ours > classical
    assert local.epsilon_of(ours, 1, 1e-5).pld == pytest.approx(20.0, rel=1e-6)
    # And it is of one round, with a sensitivity that is given freely; here, of all, and of the clip.
    assert local.epsilon_of(local.noise_for(20.0, 50, 1e-5), 50, 1e-5).pld == pytest.approx(20.0, rel=1e-6)
    assert LocalNoise(clip=0.7, noise_multiplier=ours, randomness=seeded()).sensitivity == 1.4
