"""Clipping, against exact rational arithmetic."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedsim.privacy.clipping import clip_jointly

Update = dict[str, NDArray[Any]]


def arrays(dtypes: st.SearchStrategy[type]) -> st.SearchStrategy[NDArray[Any]]:
    """Return finite arrays, subnormal and huge numbers among them."""
    finite = {"allow_nan": False, "allow_infinity": False}
    return dtypes.flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6),
            elements=st.floats(width=8 * np.dtype(dtype).itemsize, **finite),  # type: ignore[call-overload]
        )
    )


FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
UPDATES = st.dictionaries(st.sampled_from("abc"), arrays(FLOATS), max_size=3)
NORMS = st.sampled_from([5e-324, 1e-310, 1e-40, 1e-7, 0.3, 1.0, 7.0, 1e30, 1e308])


def exceeds(update: Update, norm: float, order: int) -> bool:
    """Return whether a norm is above another, without rounding anything."""
    numbers = [abs(Fraction(float(x))) for array in update.values() for x in array.reshape(-1)]
    return sum((x**order for x in numbers), Fraction(0)) > Fraction(norm) ** order


@settings(max_examples=300)
@example(update={"a": np.array(5.06005633e282)}, norm=1e-40, order=1)  # a factor that is subnormal
@example(update={"a": np.array([3e282, 7e282])}, norm=1e-35, order=2)
@example(update={"a": np.array([1e3, 1e-3, 7.0])}, norm=1e-310, order=1)
@given(update=UPDATES, norm=NORMS, order=st.sampled_from([1, 2]))
def test_the_norm_is_never_above_the_clip_however_the_dtype_rounds(
    update: Update, norm: float, order: Any
) -> None:
    clipped = clip_jointly(update, norm, order=order)
    assert not exceeds(clipped.arrays, norm, order)
    assert clipped.clipped or all(clipped.arrays[name] is update[name] for name in update)
    assert not clipped.invalid
    for name, array in update.items():
        assert (clipped.arrays[name].dtype, clipped.arrays[name].shape) == (array.dtype, array.shape)
    if exceeds(update, norm, order):
        assert clipped.clipped
    again = clip_jointly(clipped.arrays, norm, order=order)
    assert not again.clipped  # what was clipped once stays as it is


def test_the_obvious_clip_ends_above() -> None:
    # The control of the test above: float32's rounding takes this one over the norm every other time.
    generator = np.random.default_rng(0)
    above = 0
    for _ in range(200):
        update = generator.standard_normal(50).astype(np.float32)
        obvious = (update * (1.0 / np.linalg.norm(update.astype(np.float64)))).astype(np.float32)
        above += exceeds({"": obvious}, 1.0, 2)
        assert not exceeds(clip_jointly({"": update}, 1.0).arrays, 1.0, 2)
    assert 50 < above < 150


@pytest.mark.parametrize(("dtype", "lost"), [(np.float16, 2e-3), (np.float32, 9e-6), (np.float64, 1e-10)])
def test_hardly_anything_of_the_clip_is_given_away(dtype: type, lost: float) -> None:
    update = np.random.default_rng(1).standard_normal(30_000).astype(dtype)
    clipped = clip_jointly({"": update}, 30.0)
    norm = math.sqrt(math.fsum(float(x) ** 2 for x in clipped.arrays[""]))
    assert 30.0 * (1 - lost) < norm <= 30.0
    direction = clipped.arrays[""].astype(np.float64) * (np.linalg.norm(update.astype(np.float64)) / norm)
    assert direction == pytest.approx(update.astype(np.float64), rel=4 * lost, abs=1e-3)


def test_all_tensors_are_clipped_by_one_norm() -> None:
    update = {"weight": np.full((2, 2), 6.0, np.float32), "bias": np.array([5.0])}  # 4 * 36 + 25 = 13^2
    clipped = clip_jointly(update, 1.0)
    assert (clipped.norm_before, clipped.clipped) == (13.0, True)
    assert clipped.arrays["weight"] == pytest.approx(np.full((2, 2), 6 / 13), rel=1e-6)
    assert clipped.arrays["bias"] == pytest.approx(5 / 13, rel=1e-6)
    by_one = clip_jointly(update, 2.9, order=1)  # 24 + 5 = 29
    assert by_one.norm_before == pytest.approx(29.0)
    assert by_one.arrays["bias"] == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("huge", [1.0, 1e308])
def test_one_number_that_is_none_makes_the_contribution_zero(bad: float, huge: float) -> None:
    update = {"a": np.array([huge, 2.0]), "b": np.array([[1.0, bad]], np.float32), "c": np.array([huge])}
    clipped = clip_jointly(update, 1.0)
    assert (clipped.invalid, clipped.clipped) == (True, False)
    assert not math.isfinite(clipped.norm_before)
    assert all(not array.any() for array in clipped.arrays.values())
    assert clipped.arrays["b"].dtype == np.float32


def test_huge_updates_are_scaled_and_not_lost() -> None:
    clipped = clip_jointly({"a": np.array([3e307, 4e307, 0.0])}, 5.0)
    assert clipped.arrays["a"] == pytest.approx([3.0, 4.0, 0.0], rel=1e-12)
    assert clipped.norm_before == pytest.approx(5e307)
    beyond = clip_jointly({"a": np.full(100, 1e308)}, 5.0)  # its norm is no float64
    assert (beyond.norm_before, beyond.invalid) == (math.inf, False)
    assert beyond.arrays["a"] == pytest.approx(np.full(100, 0.5))


def test_a_norm_by_pieces_is_that_of_the_whole() -> None:
    update = np.random.default_rng(2).standard_normal(3 * (1 << 14) + 5).astype(np.float32)
    norm = math.sqrt(math.fsum(float(x) ** 2 for x in update))
    assert clip_jointly({"a": update}, 1e9).norm_before == pytest.approx(norm, rel=8e-6)
    assert clip_jointly({"a": update.astype(np.float64)}, 1e9).norm_before == pytest.approx(norm, rel=1e-13)
    strided = np.asfortranarray(update[:-5].reshape(3, -1))[::-1]
    assert clip_jointly({"a": strided}, 1.0).arrays["a"] == pytest.approx(
        clip_jointly({"a": update[:-5]}, 1.0).arrays["a"].reshape(3, -1)[::-1]
    )


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64", "longdouble"])
def test_what_is_no_float_is_refused_by_its_name(dtype: str) -> None:
    update = {"weight": np.zeros(2), "bn.num_batches_tracked": np.zeros((), dtype)}
    with pytest.raises(ValueError, match=r"update\['bn.num_batches_tracked'\]: dtype"):
        clip_jointly(update, 1.0)


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_norm_that_is_none_is_refused(norm: float) -> None:
    with pytest.raises(ValueError, match="clip norm"):
        clip_jointly({}, norm)


# --- the sensitivity of a sum, as measured ---------------------------------------------------------------------

SPECIAL = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e38, 3e-45])


@st.composite
def cohorts(draw: st.DrawFn) -> list[Update]:
    """Return updates of clients: ordinary, zero, huge, not finite."""
    elements = st.one_of(st.floats(-3, 3, width=32), SPECIAL)
    return [
        {
            "a": draw(hnp.arrays(np.float32, 3, elements=elements)),
            "b": draw(hnp.arrays(np.float32, (1, 2), elements=elements)),
        }
        for _ in range(draw(st.integers(1, 6)))
    ]


def total(updates: list[Update], norm: float) -> NDArray[np.float64]:
    clipped = [clip_jointly(update, norm).arrays for update in updates]
    flat = [np.concatenate([c["a"], c["b"][0]]).astype(np.float64) for c in clipped]
    return np.sum([*flat, np.zeros(5)], axis=0)


@settings(max_examples=200)
@given(updates=cohorts(), norm=st.sampled_from([1e-3, 0.5, 100.0]), data=st.data())
def test_one_client_moves_the_sum_by_the_clip_norm_at_most(
    updates: list[Update], norm: float, data: st.DataObject
) -> None:
    who = data.draw(st.integers(0, len(updates) - 1))
    removed = updates[:who] + updates[who + 1 :]
    zeroed = [*updates]
    zeroed[who] = {name: np.zeros_like(array) for name, array in updates[who].items()}
    rounding = 1 + 1e-13 * len(updates)  # of the sums
    for neighbour in (removed, zeroed):
        moved = np.linalg.norm(total(updates, norm) - total(neighbour, norm))
        assert moved <= norm * rounding
    other = data.draw(cohorts())[0]
    replaced = [*updates]
    replaced[who] = other
    assert np.linalg.norm(total(updates, norm) - total(replaced, norm)) <= 2 * norm * rounding


def test_weights_by_examples_move_it_by_more() -> None:
    # The control: ten clients, one with 910 of 1000 examples; the mean by examples moves by 0.91, and not by 1/10.
    updates = [{"a": np.ones(3, np.float32), "b": np.zeros((1, 2), np.float32)} for _ in range(10)]
    examples = np.array([910] + [10] * 9)
    clipped = np.stack([total([update], 1.0) for update in updates])
    by_examples = (examples / examples.sum()) @ clipped - (examples[1:] / examples.sum()) @ clipped[1:]
    assert np.linalg.norm(by_examples) == pytest.approx(0.91, rel=1e-5)
    assert np.linalg.norm(total(updates, 1.0) - total(updates[1:], 1.0)) / 10 <= 0.1 * (1 + 1e-12)
