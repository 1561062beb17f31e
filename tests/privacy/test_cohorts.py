from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.privacy.cohorts.sampling import draw
from fedsim.privacy.cohorts.separated import draw_separated, group_of
from fedsim.streams import numpy_stream


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


def test_a_declared_rate_is_each_clients_whatever_their_number_and_the_cohorts() -> None:
    streams = [numpy_stream(0, "cohort", round_=round_) for round_ in range(4000)]
    drawn = [draw("poisson", 100, 3, stream, rate=0.3) for stream in streams]
    share = np.mean([[client in cohort for client in range(3)] for cohort in drawn], axis=0)
    assert np.abs(share - 0.3).max() < 5 * 0.00725
    for round_ in range(20):  # the same coins as where the rate follows from the number
        coins = draw("poisson", 3, 10, numpy_stream(0, "cohort", round_=round_))
        assert draw("poisson", 1, 10, numpy_stream(0, "cohort", round_=round_), rate=0.3) == coins
    for sampling, rate in (("fixed", 0.3), ("poisson", 0.0), ("poisson", 1.1)):
        with pytest.raises(ValueError, match=f"a declared rate of {rate} with {sampling}"):
            draw(sampling, 3, 10, streams[0], rate=rate)  # type: ignore[arg-type]


def chances(rate: float, most: int) -> dict[tuple[int, ...], float]:
    """Return how likely each cohort of 4 clients is: coins, and of more than `most` a random subset."""
    found: Counter[tuple[int, ...]] = Counter()
    for size in range(5):
        for coins in combinations(range(4), size):
            subsets = list(combinations(coins, min(size, most)))
            for subset in subsets:
                found[subset] += rate**size * (1 - rate) ** (4 - size) / len(subsets)  # type: ignore[assignment]
    return dict(found)


def test_of_too_many_clients_a_uniformly_random_subset_stays() -> None:
    rounds = 8000
    drawn = Counter(
        tuple(draw("truncated-poisson", 2, 4, numpy_stream(0, "cohort", round_=t), max_cohort=2))
        for t in range(rounds)
    )

    def p_value(chance: dict[tuple[int, ...], float]) -> float:
        return float(
            stats.chisquare([drawn[c] for c in chance], [rounds * p for p in chance.values()]).pvalue
        )

    expected = chances(0.5, 2)
    assert sum(expected.values()) == pytest.approx(1.0)
    assert set(drawn) == set(expected)
    assert p_value(expected) > 1e-4
    # The controls: cutting off the last instead of at random, and coins of another rate.
    first: Counter[tuple[int, ...]] = Counter()
    for coins, chance in chances(0.5, 4).items():
        first[coins[:2]] += chance  # type: ignore[assignment]
    assert p_value(dict(first)) < 1e-12
    assert p_value(chances(0.55, 2)) < 1e-12


def test_a_maximum_that_is_never_reached_leaves_the_coins_as_they_are() -> None:
    for round_ in range(20):
        coins = draw("poisson", 3, 10, numpy_stream(0, "cohort", round_=round_))
        cut = draw("truncated-poisson", 3, 10, numpy_stream(0, "cohort", round_=round_), max_cohort=10)
        assert cut == coins


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("truncated-poisson", 3, 10), "max cohort None with truncated-poisson"),
        (("poisson", 3, 10, 5), "max cohort 5 with poisson"),
        (("truncated-poisson", 3, 10, 2), "max cohort 2 of 3 expected"),
    ],
)
def test_a_maximum_that_can_not_be_is_refused(arguments: tuple[Any, ...], says: str) -> None:
    sampling, cohort, clients, *most = arguments
    with pytest.raises(ValueError, match=says):
        draw(sampling, cohort, clients, np.random.default_rng(0), max_cohort=most[0] if most else None)


def test_groups_are_of_the_identity_alone_and_of_about_one_size() -> None:
    groups = [group_of(f"client-{k}", 4) for k in range(4000)]
    assert groups[:100] == [group_of(f"client-{k}", 4) for k in range(100)]
    assert stats.chisquare(list(Counter(groups).values())).pvalue > 1e-4
    assert stats.chisquare([c + 300 * (g == 0) for g, c in sorted(Counter(groups).items())]).pvalue < 1e-4


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**32))
def test_a_client_takes_part_at_most_once_in_so_many_rounds(separation: int, cohort: int, seed: int) -> None:
    groups = [group_of(str(client), separation) for client in range(30)]
    last: dict[int, int] = {}
    for round_ in range(1, 40):
        generator = np.random.default_rng([seed, round_])
        drawn = draw_separated(round_, separation, cohort, groups, generator)
        assert drawn == sorted(drawn)
        for client in drawn:
            assert round_ - last.get(client, round_ - separation) >= separation
            assert groups[client] == round_ % separation
            last[client] = round_


def test_a_client_whose_turn_it_is_is_drawn_by_a_coin_that_is_as_many_times_likelier() -> None:
    groups = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]  # hashes make no groups of one size
    rounds, separation, cohort = 6000, 3, 1  # rate 3 * 1 / 10
    taken = np.zeros((rounds, 10))
    for t in range(1, rounds + 1):
        drawn = draw_separated(t, separation, cohort, groups, numpy_stream(0, "cohort", round_=t))
        taken[t - 1, drawn] = 1
    turns = taken[:, :3][np.arange(1, rounds + 1) % 3 == 0]  # of group 0
    seen = Counter(tuple(np.flatnonzero(row)) for row in turns.astype(int))
    subsets = [s for size in range(4) for s in combinations(range(3), size)]

    def p_value(rate: float) -> float:
        expected = [len(turns) * rate ** len(s) * (1 - rate) ** (3 - len(s)) for s in subsets]
        return float(stats.chisquare([seen[s] for s in subsets], expected).pvalue)

    assert p_value(0.3) > 1e-4
    assert p_value(0.36) < 1e-6  # the control
    assert taken.sum() / rounds == pytest.approx(1.0, abs=0.05)  # the expected cohort, over the groups


def test_no_separation_is_poisson_sampling() -> None:
    for round_ in range(20):
        coins = draw("poisson", 3, 10, numpy_stream(0, "cohort", round_=round_))
        assert draw_separated(round_, 1, 3, [0] * 10, numpy_stream(0, "cohort", round_=round_)) == coins


@pytest.mark.parametrize(("separation", "cohort"), [(4, 3), (0, 1), (1, 0)])
def test_groups_that_are_too_small_are_refused(separation: int, cohort: int) -> None:
    with pytest.raises(ValueError, match=f"cohort {cohort} in {separation} groups of 10 clients"):
        draw_separated(1, separation, cohort, [0] * 10, np.random.default_rng(0))
