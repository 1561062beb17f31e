"""Placement of numbers beside points."""

from hypothesis import given
from hypothesis import strategies as st

from fedsim.compare.labels import HEIGHT, MARKER, NEAR, WIDTH, Box, Label, placed

FRAME = Box(0, 0, 400, 300)


def boxes(texts: list[str], places: list[tuple[float, float]], frame: Box = FRAME) -> list[Box]:
    """Return where labels come to be."""
    labels = [Label(0, 0, text, "#000000") for text in texts]
    taken = [Box.around(x, y, MARKER, MARKER) for x, y in places]
    offsets = placed(labels, places, taken, frame)
    return [
        Box.around(x + dx, y + dy, len(text) * WIDTH, HEIGHT)
        for text, (x, y), (dx, dy) in zip(texts, places, offsets, strict=True)
    ]


def test_a_number_is_to_the_right_or_else_to_the_left() -> None:
    assert boxes(["12"], [(200, 150)]) == [Box.around(200 + NEAR + WIDTH, 150, 2 * WIDTH, HEIGHT)]
    (left,) = boxes(["12"], [(395, 150)])
    assert left.right <= 395 - MARKER / 2


@given(st.lists(st.tuples(st.integers(60, 70), st.integers(150, 170)), min_size=1, max_size=6))
def test_of_a_few_points_no_numbers_meet_each_other_or_a_point(places: list[tuple[float, float]]) -> None:
    found = boxes(["16"] * len(places), places)
    for place, box in enumerate(found):
        assert box.is_within(FRAME)
        assert not any(box.meets(other) for other in found[:place])
        assert not any(box.meets(Box.around(x, y, MARKER, MARKER)) for x, y in places)


def test_without_room_a_number_stays_beside_its_point() -> None:
    assert boxes(["12"], [(5, 5)], Box(0, 0, 10, 10)) == [Box.around(5 + NEAR + WIDTH, 5, 2 * WIDTH, HEIGHT)]
