import numpy as np
import pytest

from fedsim.privacy.events import Noise
from fedsim.privacy.randomness import KeyedRandomness, NumpyRandomness, Prefetch, Randomness
from fedsim.streams import numpy_stream

SOURCES = {
    "seeded": lambda round_: NumpyRandomness(numpy_stream(0, "noise", round_=round_)),
    "keyed": lambda round_: KeyedRandomness(bytes(32), f"round {round_}"),
}


def numbers(randomness: Randomness, *counts: int) -> list[float]:
    return np.concatenate([randomness.normals(count) for count in counts]).tolist()


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_round_has_the_same_normals_begun_or_not(source: object) -> None:
    ahead = Prefetch(source, 7)  # type: ignore[arg-type]
    for begun in (False, True):
        if begun:
            ahead.begin(3)
        assert numbers(ahead(3), 7) == numbers(source(3), 7)  # type: ignore[operator]


def test_what_is_taken_piece_by_piece_and_beyond_is_the_stream() -> None:
    ahead = Prefetch(SOURCES["seeded"], 7)
    ahead.begin(1)
    assert numbers(ahead(1), 3, 2, 5, 4) == numbers(SOURCES["seeded"](1), 14)


def test_what_was_begun_is_of_its_round_alone_and_taken_once() -> None:
    ahead = Prefetch(SOURCES["seeded"], 7)
    ahead.begin(1)
    assert numbers(ahead(2), 7) == numbers(SOURCES["seeded"](2), 7)
    ahead.begin(2)
    first, second = ahead(2), ahead(2)
    assert numbers(first, 9) == numbers(second, 9) != numbers(first, 9)
    assert first.source is Noise.SEEDED
