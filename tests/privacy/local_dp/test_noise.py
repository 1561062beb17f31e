import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedsim.mechanisms import loads
from fedsim.privacy.events import Law, Noise, Relation, Unit
from fedsim.privacy.local_dp.client import LocalNoise
from fedsim.privacy.local_dp.event import LocalDpEvent
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SystemRandomness, laplaces

LEVEL = 1e-6
UPDATE = {"weight": np.full((2, 2), 3.0, np.float32), "bias": np.array([1.0])}


def local(randomness: Randomness | None = None, **changed: object) -> LocalNoise:
    made = LocalNoise(
        clip=0.5, noise_multiplier=3.0, randomness=randomness or NumpyRandomness(np.random.default_rng(0))
    )
    return replace(made, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("randomness", [None, SystemRandomness()], ids=["seeded", "system"])
@pytest.mark.parametrize(("law", "name"), [(Law.GAUSSIAN, "norm"), (Law.LAPLACE, "laplace")])
def test_the_noise_has_twice_the_clip_norm_times_the_multiplier(
    randomness: Randomness | None, law: Law, name: str
) -> None:
    made = local(randomness, law=law)
    assert made.sensitivity == 1.0
    assert made.noise_multiplier * made.sensitivity == 3.0
    noise = made.release({"a": np.zeros(30_000, np.float32)}, 1, 0).arrays["a"] / 3.0
    assert noise.dtype == np.float32
    assert stats.kstest(noise, name).pvalue > LEVEL
    assert stats.kstest(2 * noise, name).pvalue < LEVEL  # the control: a sensitivity of one clip norm
    assert stats.kstest(1.15 * noise, name).pvalue < LEVEL


def test_the_event_says_what_was_done() -> None:
    event = local(law=Law.LAPLACE).release(UPDATE, 4, 9).event
    assert event == LocalDpEvent(
        mechanism="local-dp",
        round=4,
        client=9,
        unit=Unit.CLIENT,
        relation=Relation.REPLACE_ONE,
        law=Law.LAPLACE,
        sensitivity=1.0,
        noise_multiplier=3.0,
        noise=Noise.SEEDED,
    )
    assert loads(event.dumps()) == event


@pytest.mark.parametrize(("law", "order"), [(Law.GAUSSIAN, 2), (Law.LAPLACE, 1)])
def test_what_the_noise_is_added_to_is_clipped_in_the_laws_norm(law: Law, order: int) -> None:
    released = local(law=law, noise_multiplier=1e-9).release(UPDATE, 1, 0)
    flat = np.concatenate([released.arrays["weight"].reshape(-1), released.arrays["bias"]])
    assert np.linalg.norm(flat, order) == pytest.approx(0.5, rel=1e-6)
    assert released.clipped.clipped
    assert [array.dtype for array in released.arrays.values()] == [np.float32, np.float64]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_noise_alone(bad: float) -> None:
    zero = local().release({"a": np.zeros(5)}, 1, 0)
    spoilt = local().release({"a": np.array([1.0, bad, 1.0, 1.0, 1.0])}, 1, 0)
    assert np.array_equal(zero.arrays["a"], spoilt.arrays["a"])
    assert spoilt.event == zero.event
    assert spoilt.clipped.invalid


def test_what_can_not_be_is_refused() -> None:
    for changed, says in (
        ({"clip": 0.0}, "clip norm = 0.0"),
        ({"noise_multiplier": 0.0}, "noise multiplier = 0.0"),
        ({"noise_multiplier": math.inf}, "noise multiplier = inf"),
    ):
        with pytest.raises(ValueError, match=says):
            local(**changed)
    with pytest.raises(ValueError, match="has no arrays"):
        local().release({}, 1, 0)
    with pytest.raises(ValueError, match=r"update\['n'\]: dtype int64"):
        local().release({"n": np.array([1])}, 1, 0)


def test_laplaces_are_of_both_signs_and_finite() -> None:
    class Ends:
        """Uniform numbers at both ends of [0, 1)."""

        source = Noise.SEEDED

        def uniforms(self, count: int) -> np.ndarray:
            return np.resize([0.0, 1 - 2**-53], count)

    assert np.isfinite(laplaces(Ends(), 10)).all()  # type: ignore[arg-type]
    drawn = laplaces(NumpyRandomness(np.random.default_rng(0)), 100_000)
    assert drawn.mean() == pytest.approx(0.0, abs=0.03)
    assert drawn.var() == pytest.approx(2.0, rel=0.05)
