"""The low bits of client-level releases stay within the claimed epsilon; with floating-point addition they don't."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.experiments.audits.__main__ import audit
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.audit import Release, lowest_bit, measure
from fedsim.privacy.events import Law
from fedsim.privacy.local_dp import accounting as local
from fedsim.privacy.local_dp.client import LocalNoise
from fedsim.privacy.randomness import NumpyRandomness

NOISE, TRIALS = 4.0, 4000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["dp-fedavg", "dp-fedavg metric", "dp-fedavg adaptive bits", "dp-ftrl row 2", "local-dp gaussian"],
)
def test_the_lowest_bit_says_no_more_than_is_claimed(name: str) -> None:
    exact = audit(name, NOISE, TRIALS, 4, 3)
    assert max(exact["measured"].values()) < exact["claimed"]
    as_floats = audit(name, NOISE, TRIALS, 4, 3, Arithmetic.FLOAT32)
    assert as_floats["measured"]["lowest bit"] > 1.2 * as_floats["claimed"]


def test_laplaces_noise_is_added_exactly_too() -> None:
    """Its float64s are multiples of 2^-50, as 1 is; a third is none, and a float's low bits tell that it is there."""

    def released(arithmetic: Arithmetic) -> Release:
        def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
            client = LocalNoise(
                law=Law.LAPLACE,
                clip=1.0,
                noise_multiplier=NOISE,
                randomness=NumpyRandomness(generator),
                arithmetic=arithmetic,
            )
            update = {"w": np.array([present / 3])}
            return lowest_bit(np.array([client.release(update, 1, 0).arrays["w"][0] for _ in range(trials)]))

        return release

    generator, claimed = np.random.default_rng(11), local.epsilon_of(NOISE, 1, None).pld
    assert measure(released(Arithmetic.GRID), TRIALS, 0.0, generator).epsilon < claimed
    assert measure(released(Arithmetic.FLOAT32), TRIALS, 0.0, generator).epsilon > 1.5 * claimed
