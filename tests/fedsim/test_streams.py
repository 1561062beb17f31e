import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.streams import numpy_stream, torch_draws_from, torch_stream

names = st.tuples(st.integers(0, 2**63), st.text(max_size=8), st.integers(0, 10**6), st.integers(0, 10**6))


@given(names, names)
def test_a_stream_is_its_name(a: tuple[int, str, int, int], b: tuple[int, str, int, int]) -> None:
    def draw(name: tuple[int, str, int, int]) -> list[int]:
        seed, purpose, round_, client = name
        return numpy_stream(seed, purpose, round_=round_, client=client).integers(2**62, size=4).tolist()

    assert draw(a) == draw(a)
    assert (draw(a) == draw(b)) == (a == b)


def test_torch_streams_are_named_too() -> None:
    draws = [torch.rand(3, generator=torch_stream(0, "x", client=c)).tolist() for c in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_the_default_generator_is_lent_and_put_back() -> None:
    before = torch.default_generator.get_state()
    with torch_draws_from(0, "dropout"):
        inside = torch.rand(3)
    assert torch.equal(before, torch.default_generator.get_state())
    assert torch.equal(inside, torch.rand(3, generator=torch_stream(0, "dropout")))
    with pytest.raises(ZeroDivisionError), torch_draws_from(0, "dropout"):
        1 / 0  # noqa: B018
    assert torch.equal(before, torch.default_generator.get_state())


def test_streams_are_uniform_and_a_biased_one_would_be_seen() -> None:
    # Chi-square with 99 degrees of freedom: 99.9 % of uniform samples stay below 148.2.
    def chi_square(values: np.ndarray) -> float:
        counts = np.bincount((values * 100).astype(int), minlength=100)
        return float(((counts - len(values) / 100) ** 2 / (len(values) / 100)).sum())

    firsts = np.array([numpy_stream(1, "cohort", round_=r).random() for r in range(10_000)])
    assert chi_square(firsts) < 148.2
    assert chi_square(firsts**1.1) > 148.2
