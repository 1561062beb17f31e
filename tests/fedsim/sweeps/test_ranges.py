"""Random search: draws from ranges, and invalid ranges."""

import numpy as np
import pytest
from scipy import stats

from fedsim import Refused
from fedsim.sweeps.points import Search, parse_ranges
from fedsim.sweeps.run import make_plan
from tests.conftest import experiment


def drawn(said: str, count: int = 2000) -> np.ndarray:
    search = Search.of(count, [f"client.x={said}"])
    assert search is not None
    return np.array([float(point["client.x"]) for point in search.points()])


def test_values_are_uniform_in_their_range_or_in_their_logarithm() -> None:
    even = drawn("0.01:1")
    by_factors = drawn("0.01:1:log")
    assert (even.min(), even.max(), by_factors.min(), by_factors.max()) == pytest.approx(
        (0.01, 1, 0.01, 1), abs=0.01
    )
    assert stats.kstest(even, stats.uniform(0.01, 0.99).cdf).pvalue > 0.01
    logarithms = stats.uniform(np.log(0.01), np.log(100))
    assert stats.kstest(np.log(by_factors), logarithms.cdf).pvalue > 0.01
    assert stats.kstest(np.log(even), logarithms.cdf).pvalue < 1e-6  # the test can tell


def test_whole_ends_have_whole_numbers_both_ends_among_them() -> None:
    assert sorted(drawn("1:4", 200)) == [1, 2, 3, 4]  # each once
    assert sorted(drawn("-1:1", 200)) == [-1, 0, 1]
    assert set(drawn("1:100:log", 2000)) <= set(range(1, 101))
    assert {1, 100} <= set(drawn("1:100:log", 2000))


def test_the_same_search_is_the_same_plan() -> None:
    search = Search.of(3, ["client.learning-rate=0.01:1:log", "client.epochs=1:5"])
    plan = make_plan([experiment()], {"rounds": ("2", "3")}, [], 2, search)
    assert plan == make_plan([experiment()], {"rounds": ("2", "3")}, [], 2, search)
    assert len(plan.runs) == 2 * 3 * 2
    first, second = (
        {key: run.point[key] for key in ("client.learning-rate", "client.epochs")} for run in plan.runs[::6]
    )
    assert first == second  # each point of the grid has the same ones
    assert len({run.point["client.learning-rate"] for run in plan.runs}) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("client.x", "--range 'client.x': must be key=low:high or key=low:high:log"),
        ("client.x=1", "--range client.x=1: must be low:high or low:high:log, with low below high"),
        ("client.x=2:1", "--range client.x=2:1: must be low:high or low:high:log, with low below high"),
        (
            "client.x=1.2.3:4",
            "--range client.x=1.2.3:4: must be low:high or low:high:log, with low below high",
        ),
        (
            "client.x=1:1e999",
            "--range client.x=1:1e999: must be low:high or low:high:log, with low below high",
        ),
        ("client.x=0:1:log", "--range client.x=0:1:log: must begin above 0 with log"),
        ("seed=0:9", "--range seed: is nothing to search over; --seeds repeats a point"),
    ],
)
def test_invalid_ranges(text: str, complaint: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_ranges([text])
    assert str(refused.value) == complaint


def test_what_can_not_be_searched() -> None:
    for count, ranges in ((None, ["client.x=0:1"]), (3, [])):
        with pytest.raises(Refused, match="--search and --range: go together"):
            Search.of(count, ranges)
    with pytest.raises(Refused, match="--search 0: must be at least 1"):
        Search.of(0, ["client.x=0:1"])
    with pytest.raises(Refused, match="400 runs: more than 200"):
        make_plan([experiment()], {}, [], 2, Search.of(200, ["client.learning-rate=0.1:1"]))
    with pytest.raises(Refused, match="--range rounds: can't stand beside a grid of the same key"):
        make_plan([experiment()], {"rounds": ("1",)}, [], 1, Search.of(2, ["rounds=1:9"]))
    with pytest.raises(Refused, match=r"arm 'tiny': client\.learning-rate = -.*: must be greater than 0"):
        make_plan([experiment()], {}, [], 1, Search.of(2, ["client.learning-rate=-1.5:-1.0"]))
