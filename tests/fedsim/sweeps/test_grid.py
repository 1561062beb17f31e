"""Grids: parsing them, and invalid ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import Refused
from fedsim.sweeps.points import grid_of, parse_grid, points_of, size_of, value_of


def test_commas_inside_brackets_and_quotes_part_nothing() -> None:
    grid = parse_grid(["data.sizes=[1, 2],[3,4]", 'model.name="a,b",c', "server.options={a = 1, b = 2}"])
    assert grid["data.sizes"] == ("[1, 2]", "[3,4]")
    assert [value_of("model.name", text) for text in grid["model.name"]] == ["a,b", "c"]
    assert value_of("server.options", grid["server.options"][0]) == {"a": 1, "b": 2}


def test_points_are_every_combination_once() -> None:
    points = list(points_of({"a": ("1", "2"), "b": ("x", "y", "z")}))
    assert points[:2] == [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}]
    assert (
        len({tuple(point.items()) for point in points})
        == size_of({"a": ("1", "2"), "b": ("x", "y", "z")})
        == 6
    )
    assert list(points_of({})) == [{}]


@given(
    st.lists(
        st.one_of(
            st.integers(-(2**62), 2**62),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(),
            st.booleans(),
        )
    )
)
def test_python_values_come_back_as_they_were(values: list[object]) -> None:
    distinct = [value for place, value in enumerate(values) if value not in values[:place]]
    if not distinct:
        with pytest.raises(Refused, match="is empty"):
            grid_of({"client.x": distinct}, "grid")
        return
    texts = grid_of({"client.x": distinct}, "grid")["client.x"]
    assert [value_of("client.x", text) for text in texts] == distinct


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rounds", "--grid 'rounds': must be key=value,value,..."),
        ("=1,2", "--grid '=1,2': must be key=value,value,..."),
        ("rounds=", "--grid rounds: is empty; one value or more are needed"),
        ("rounds=1,,2", "--grid rounds=1,,2: must be values, separated by commas"),
        ("rounds=1,2,", "--grid rounds=1,2,: must be values, separated by commas"),
        ("rounds=1,1", "--grid rounds: has 1 twice"),
        ("client.learning-rate=1,1.0", "--grid client.learning-rate: has 1.0 twice"),
        ("runtime.workers=1,2", "--grid runtime.workers: [runtime] changes no result, so there is nothing to compare"),
    ],
)  # fmt: skip
def test_invalid_grids(text: str, complaint: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_grid([text])
    assert str(refused.value) == complaint


def test_a_key_stands_once() -> None:
    with pytest.raises(Refused, match=r"--grid client\.learning-rate: is given twice"):
        parse_grid(["client.learning_rate=1", "client.learning-rate=2"])


@pytest.mark.parametrize("value", [None, float("nan"), {"a": 1}, object()])
def test_invalid_values(value: object) -> None:
    with pytest.raises(Refused, match=r"grid rounds: .* can't be varied over; allowed: numbers, strings"):
        grid_of({"rounds": [value]}, "grid")


def test_values_are_a_list() -> None:
    with pytest.raises(Refused, match=r"grid data\.partition = 'iid': must be a list of values"):
        grid_of({"data.partition": "iid"}, "grid")
