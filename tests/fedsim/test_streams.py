import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim import streams
from fedsim.streams import numpy_stream, torch_draws_from, torch_draws_from_system, torch_stream

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


def test_the_systems_draws_are_others_each_time_and_the_generator_is_put_back() -> None:
    before = torch.default_generator.get_state()
    drawn = []
    for _ in range(3):
        with torch_draws_from_system():
            drawn.append(torch.rand(4).tolist())
        assert torch.equal(before, torch.default_generator.get_state())
    assert len({tuple(each) for each in drawn}) == 3
    with pytest.raises(ZeroDivisionError), torch_draws_from_system():
        1 / 0  # noqa: B018
    assert torch.equal(before, torch.default_generator.get_state())


def test_the_systems_draws_have_all_bits_of_the_generator_and_a_seed_has_32() -> None:
    with torch_draws_from_system():
        words = torch.default_generator.get_state().numpy()[streams._WORDS].view(np.uint64)
        assert words.max() < 2**32
        assert len(set(words.tolist())) > 600  # of 624, of which two are equal with probability 5e-5
        assert abs(torch.rand(10**5).mean().item() - 0.5) < 6 / (12 * 10**5) ** 0.5
    seeded = [torch.rand(4, generator=torch.Generator().manual_seed(7 + k * 2**32)).tolist() for k in (0, 1)]
    assert seeded[0] == seeded[1]  # why a seed would not do


def test_the_systems_draws_are_refused_where_the_state_is_laid_out_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_WORDS", slice(32, 32 + 8 * 624))
    with (
        pytest.raises(RuntimeError, match="keeps its generator's state otherwise"),
        torch_draws_from_system(),
    ):
        pass


def test_streams_are_uniform_and_a_biased_one_would_be_seen() -> None:
    # Chi-square with 99 degrees of freedom: 99.9 % of uniform samples stay below 148.2.
    def chi_square(values: np.ndarray) -> float:
        counts = np.bincount((values * 100).astype(int), minlength=100)
        return float(((counts - len(values) / 100) ** 2 / (len(values) / 100)).sum())

    firsts = np.array([numpy_stream(1, "cohort", round_=r).random() for r in range(10_000)])
    assert chi_square(firsts) < 148.2
    assert chi_square(firsts**1.1) > 148.2
