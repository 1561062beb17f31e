"""The sensitivity of rounded sums, against every outcome of the coins and against secure aggregation's own rounding."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy.arithmetic import sensitivity_after_rounding
from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.secagg.encoding import Encoding


def worst(clip: float, dimension: int, step: float) -> float:
    """Return the supremum of the rounded norm: over whole numbers a, each from a number just above (a - 1) step."""
    most = int(clip / step) + 1
    best = 0
    for rounded in product(range(most + 1), repeat=dimension):
        if sum(max(a - 1, 0) ** 2 for a in rounded) * step**2 <= clip**2 * (1 + 1e-12):
            best = max(best, sum(a * a for a in rounded))
    return math.sqrt(best) * step


@pytest.mark.parametrize("dimension", [1, 2, 4])
@pytest.mark.parametrize("step", [0.2, 0.3, 0.5, 0.9, 1.0, 1.7])
def test_no_outcome_is_above_the_bound_and_some_come_near(dimension: int, step: float) -> None:
    bound = sensitivity_after_rounding(1.0, dimension, step)
    assert bound <= (1 + math.sqrt(dimension) * step) * (1 + 1e-6)  # what the triangle inequality gives
    assert 0.85 * bound < worst(1.0, dimension, step) <= bound


def test_few_steps_for_many_numbers_need_less_than_the_triangle_inequality_says() -> None:
    step = 1 / 127
    assert sensitivity_after_rounding(1.0, 10**6, step) == pytest.approx(
        math.sqrt(3 + 10**6 * step**2), rel=1e-6
    )
    assert sensitivity_after_rounding(1.0, 10**6, step) < 0.91 * (1 + 1000 * step)
    # With 16 bits there are more steps than numbers, and both say the same: 3 % more.
    step = 1 / (2**15 - 1)
    assert sensitivity_after_rounding(1.0, 10**6, step) == pytest.approx(1 + 1000 * step, rel=1e-6)
    assert sensitivity_after_rounding(2.0, 10, 0.0) == 2.0


@settings(max_examples=60)
@given(
    dimension=st.sampled_from([1, 3, 40, 2000]),
    input_bits=st.sampled_from([2, 4, 8, 16]),
    clip=st.sampled_from([0.1, 1.0, 12.5]),
    spread=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_what_secure_aggregation_rounds_stays_below(
    dimension: int, input_bits: int, clip: float, spread: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    update = (generator.standard_normal(dimension) ** (1 + 4 * spread)).astype(np.float32) * np.float32(100)
    update = clip_jointly({"": update}, clip).arrays[""]
    encoding = Encoding(dimension, cohort=2, input_bits=input_bits, clip=clip)
    step = clip / (2 ** (input_bits - 1) - 1)
    vector = encoding.encode(update, 1, {}, generator)
    rounded = encoding.ring.centred(vector)[:dimension].astype(np.float64) * step
    norm = float(np.linalg.norm(rounded))
    assert norm <= sensitivity_after_rounding(clip, dimension, step) * (1 + 1e-12)
    if input_bits == 2 and dimension > 40 and spread == 0:
        assert norm > 2 * clip  # the control: the clip norm alone is no bound


@pytest.mark.parametrize(
    ("clip", "dimension", "step", "says"),
    [
        (0.0, 1, 0.1, "clip norm"),
        (1.0, 0, 0.1, "dimension"),
        (1.0, 1, -0.1, "step"),
        (1.0, 1, math.inf, "step"),
    ],
)
def test_values_out_of_range(clip: float, dimension: int, step: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sensitivity_after_rounding(clip, dimension, step)
