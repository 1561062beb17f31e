"""Top-k sparsification, against its definition and by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedsim.transforms import Transform, Values
from fedsim.transforms.topk import TopK

UNUSED = np.random.default_rng(0)
shares = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)


def vectors(dtype: str) -> st.SearchStrategy[Values]:
    """Return vectors, of few values too, so that there are ties."""
    numbers = st.floats(-10, 10, width=16) | st.integers(-2, 2).map(float)
    return arrays(dtype, st.integers(1, 60), elements=numbers)


@given(st.sampled_from(["float16", "float32", "float64"]).flatmap(vectors), shares)
def test_the_largest_magnitudes_are_kept_and_of_equal_ones_the_first(update: Values, share: float) -> None:
    count = math.ceil(Fraction(str(share)) * update.size)
    order = sorted(range(update.size), key=lambda i: (-abs(float(update[i])), i))
    expected = np.zeros_like(update)
    expected[order[:count]] = update[order[:count]]
    sent = TopK(share).apply(update.copy(), UNUSED)
    assert sent.dtype == update.dtype
    np.testing.assert_array_equal(sent, expected)


@pytest.mark.parametrize(
    ("share", "sent"),
    [(0.2, [0, -3, 0, 0, 0]), (0.21, [0, -3, 3, 0, 0]), (0.6, [2, -3, 3, 0, 0]), (1.0, [2, -3, 3, 0.5, -2])],
)
def test_by_hand(share: float, sent: list[float]) -> None:
    assert TopK(share).apply(np.float32([2, -3, 3, 0.5, -2]), UNUSED).tolist() == sent


def test_a_share_is_what_is_written() -> None:
    assert 0.07 * 100 > 7  # in binary
    assert np.count_nonzero(TopK(0.07).apply(np.arange(1.0, 101.0), UNUSED)) == 7
    assert isinstance(TopK(), Transform)
