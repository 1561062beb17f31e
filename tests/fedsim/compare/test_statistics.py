import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.compare.statistics import difference, holm, summarise

VALUES = st.floats(0, 1).map(lambda value: round(value, 3))
PS = st.lists(st.none() | st.floats(0, 1), max_size=6)


def test_the_interval_of_three_values_by_hand() -> None:
    summary = summarise([0.80, 0.90, 1.00])
    assert (summary.n, summary.mean) == (3, pytest.approx(0.9))
    assert summary.sd == pytest.approx(0.1)
    assert summary.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t(0.975; 2)


def test_one_seed_has_no_spread_and_no_test() -> None:
    assert (summarise([0.7]).sd, summarise([0.7]).half_width) == (None, None)
    one = difference({0: 0.7}, {0: 0.9})
    assert (one.mean, one.p, one.half_width) == (pytest.approx(-0.2), None, None)
    assert difference({0: 0.7}, {1: 0.9, 2: 0.8}).p is None


def test_without_values_there_is_no_answer() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([])
    with pytest.raises(ValueError, match="no values"):
        difference({}, {0: 1.0})


@given(st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=6))
def test_the_same_seeds_are_paired(pairs: list[tuple[float, float]]) -> None:
    first, second = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    found = difference(first, second)
    gaps = [a - b for a, b in pairs]
    if max(gaps) - min(gaps) < 1e-9:
        assert found.p is None
        return
    expected = stats.ttest_rel(list(first.values()), list(second.values()))
    interval = expected.confidence_interval(0.95)
    assert (found.test, found.p) == ("paired t", pytest.approx(float(expected.pvalue), rel=1e-6, abs=1e-12))
    assert found.mean + (found.half_width or 0) == pytest.approx(float(interval.high))


def test_other_seeds_are_not_paired() -> None:
    first, second = {0: 1.0, 1: 2.0, 2: 3.0}, {5: 2.0, 6: 4.0, 7: 6.0}
    found = difference(first, second)
    # Welch: t = -2 / sqrt(1/3 + 4/3) = -1.549, with (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 2.941 degrees of freedom.
    t, freedom = 2 / math.sqrt(5 / 3), (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    assert (found.test, found.mean) == ("Welch t", -2.0)
    assert found.p == pytest.approx(2 * stats.t.sf(t, freedom))
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(5 / 3))
    # Paired by position, as a wrong reading would, the same numbers give another p.
    assert found.p != pytest.approx(
        difference(first, dict(zip(first, second.values(), strict=True))).p, rel=0.01
    )


def test_differences_without_spread_are_no_evidence_of_certainty() -> None:
    assert difference({0: 0.1, 1: 0.2}, {0: 0.3, 1: 0.4}).p is None
    assert difference({0: 0.5, 1: 0.5}, {2: 0.4, 3: 0.4}).p is None


@given(PS)
def test_holm_is_the_stepwise_maximum(ps: list[float | None]) -> None:
    given_ps = sorted(p for p in ps if p is not None)
    for before, after in zip(ps, holm(ps), strict=True):
        if before is None:
            assert after is None
            continue
        steps = [min(1.0, (len(given_ps) - k) * p) for k, p in enumerate(given_ps) if p <= before]
        assert after == pytest.approx(max(steps))
        assert before <= after <= min(1.0, len(given_ps) * before) + 1e-12
