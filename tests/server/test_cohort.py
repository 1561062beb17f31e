import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.streams import numpy_stream
from server.cohort import draw


@given(st.integers(1, 200), st.data(), st.integers(0, 2**32))
def test_fixed_cohorts_have_their_size(clients: int, data: st.DataObject, seed: int) -> None:
    cohort = data.draw(st.integers(1, clients))
    drawn = draw("fixed", cohort, clients, np.random.default_rng(seed))
    assert len(set(drawn)) == cohort
    assert drawn == sorted(drawn)
    assert set(drawn) <= set(range(clients))


def participations(sampling: str, rounds: int = 4000) -> np.ndarray:
    """Return which of 10 clients took part, `(rounds, 10)`, with an expected cohort of 3."""
    taken = np.zeros((rounds, 10))
    for round_ in range(rounds):
        taken[round_, draw(sampling, 3, 10, numpy_stream(0, "cohort", round_=round_))] = 1
    return taken


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_each_client_takes_part_equally_often(sampling: str) -> None:
    # 4,000 coins of 0.3: standard deviation 0.00725; five of them are passed once in 1.7 million.
    assert np.abs(participations(sampling).mean(axis=0) - 0.3).max() < 5 * 0.00725


def test_poisson_cohorts_are_independent_coins_and_fixed_ones_are_not() -> None:
    # The size of a Poisson cohort is Binomial(10, 0.3): variance 2.1, and 0.7^10 = 2.8 % are empty.
    sizes = participations("poisson").sum(axis=1)
    assert abs(sizes.var() - 2.1) < 0.25
    assert abs((sizes == 0).mean() - 0.7**10) < 0.014
    assert participations("fixed").sum(axis=1).var() == 0.0


def test_pairs_of_poisson_clients_are_uncorrelated_and_pairs_of_fixed_ones_are() -> None:
    # Without replacement two clients' correlation is -1/9.
    def mean_correlation(sampling: str) -> float:
        matrix = np.corrcoef(participations(sampling).T)
        return float(matrix[np.triu_indices(10, 1)].mean())

    assert abs(mean_correlation("poisson")) < 0.012
    assert mean_correlation("fixed") == pytest.approx(-1 / 9, abs=0.005)


def test_a_cohort_that_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cohort 4 of 3 clients"):
        draw("fixed", 4, 3, np.random.default_rng(0))
