"""Participation patterns: exactly the allowed histories are admitted."""

from itertools import chain, combinations

import numpy as np
import pytest

from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.cohorts.separated import History
from tests.privacy.dp_ftrl.oracles import patterns


@pytest.mark.parametrize(("separation", "most"), [(1, None), (1, 2), (2, None), (3, 2), (3, None), (7, None)])
def test_exactly_the_histories_of_the_pattern_are_admitted(separation: int, most: int | None) -> None:
    pattern = Participation(rounds=7, separation=separation, most=most)
    allowed = set(patterns(pattern))
    assert max(map(len, allowed)) == pattern.participations
    for rounds in chain.from_iterable(combinations(range(7), count) for count in range(8)):
        history = History(pattern)
        admitted = True
        for round_ in rounds:
            if history.refusal(round_ + 1, 5) is not None:
                admitted = False
                break
            history.admit(round_ + 1, [5, 100 + round_])
        assert admitted == (rounds in allowed)


def test_a_refusal_names_the_round_and_the_client_and_records_none() -> None:
    history = History(Participation(rounds=10, separation=3, most=2))
    history.admit(1, [1, 2])
    with pytest.raises(
        ValueError, match=r"round 3: client 2 took part in round 1, .* 3 or more rounds apart"
    ):
        history.admit(3, [7, 2])
    history.admit(4, [7, 2])  # 7 wasn't noted in round 3
    with pytest.raises(ValueError, match="round 8: client 2 took part 2 times, which is the most"):
        history.admit(8, [2])
    with pytest.raises(ValueError, match="round 9: a client is in the cohort twice"):
        history.admit(9, [3, 3])
    for outside in (0, 11):
        with pytest.raises(ValueError, match=f"round {outside}: the noise is planned for rounds 1 to 10"):
            history.admit(outside, [3])
    with pytest.raises(ValueError, match="client 2 took part in round 4"):
        history.admit(2, [2])  # an earlier round isn't a way around


def test_a_history_goes_on_from_its_state() -> None:
    pattern = Participation(rounds=10, separation=3, most=2)
    history = History(pattern)
    history.admit(2, [4, 1])
    history.admit(5, [1])
    state = history.state()
    assert {name: values.tolist() for name, values in state.items()} == {
        "clients": [1, 4],
        "last": [5, 2],
        "count": [2, 1],
    }
    again = History(pattern, state)
    assert [again.refusal(6, client) is None for client in (1, 4, 9)] == [False, True, True]
    assert History(pattern, History(pattern).state()).refusal(1, 1) is None
    with pytest.raises(ValueError, match="no client twice"):
        History(pattern, state | {"clients": np.array([1, 1])})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rounds": 0}, "rounds = 0: must be 1 or more"),
        ({"rounds": 5, "separation": 0}, "separation = 0: must be 1 or more"),
        ({"rounds": 5, "most": 0}, "participations = 0: must be 1 or more"),
    ],
)
def test_ranges(values: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Participation(**values)
