"""Degrees and thresholds: the published table, an exact search, and the events themselves, counted one by one."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedsim.privacy.secagg.graph import neighbours
from fedsim.privacy.secagg.topology import (
    Adversary,
    Assumptions,
    Graph,
    Topology,
    counted_up,
    k_regular,
    topology,
)

SEMI_HONEST, MALICIOUS = Adversary.SEMI_HONEST, Adversary.MALICIOUS_SERVER

# Degree and threshold by the published finder: google-parfait/federated-compute, fcp/secagg/server, its test's
# precomputed table and, for the sizes between, its algorithm. Fractions are of the cohort, rounded down.
SIZES = (20, 50, 100, 200, 1000, 10**4, 10**5, 10**6, 10**9)
PUBLISHED = {
    (0.05, False): "4,2 6,3 12,6 20,11 30,17 34,20 36,21 38,22 48,27",
    (0.05, True): "4,3 8,6 16,11 30,21 52,37 62,44 68,48 74,52 92,64",
    (0.10, False): "6,3 12,6 22,11 34,19 48,27 54,31 58,33 64,36 76,42",
    (0.10, True): "8,6 16,11 32,22 56,39 96,67 122,85 134,93 146,101 182,125",
    (0.20, False): "10,5 22,11 40,21 62,34 98,54 122,67 134,73 144,78 174,93",
    (0.20, True): "14,10 32,22 62,42 118,80 302,206 482,328 552,375 600,407 742,502",
    (0.33, False): "14,7 34,17 68,34 122,64 286,150 422,221 480,251 518,270",
}
MORE = [  # clients, corrupt, dropout, malicious, degree, threshold
    (100, 0.45, 0.45, False, 92, 46),
    (1000, 0.45, 0.45, False, 822, 417),
    (10**4, 0.45, 0.45, False, 3494, 1771),
    (10**6, 0.45, 0.45, False, 6240, 3156),
    (10, 0.33, 0.33, False, 8, 4),
    (100, 0.3, 0.3, True, 92, 62),
    (10**4, 0.3, 0.3, True, 4822, 3230),
    (10**6, 0.3, 0.3, True, 11136, 7454),
    (100, 0.05, 0.33, False, 28, 6),
    (10**6, 0.05, 0.33, True, 970, 545),
    (10**6, 0.33, 0.05, True, 212, 173),
    (10**6, 0.33, 0.0, False, 50, 47),
    (1000, 0.0, 0.33, False, 38, 2),
    (10**6, 0.0, 0.33, True, 410, 206),
    (10**6, 0.0, 0.0, True, 2, 2),
]
TABLE = [
    (clients, fraction, fraction, malicious, *map(int, cell.split(",")))
    for (fraction, malicious), row in PUBLISHED.items()
    for clients, cell in zip(SIZES, row.split(), strict=False)
] + MORE


def rounded_down(fraction: float, clients: int) -> int:
    return math.floor(Fraction(repr(fraction)) * clients)


@pytest.mark.parametrize(("clients", "corrupt", "dropout", "malicious", "degree", "threshold"), TABLE)
def test_the_published_table_is_reproduced(
    clients: int, corrupt: float, dropout: float, malicious: bool, degree: int, threshold: int
) -> None:
    found = k_regular(
        clients, rounded_down(corrupt, clients), rounded_down(dropout, clients), malicious=malicious
    )
    assert found is not None
    assert (found.degree, found.threshold) == (degree, threshold)


@pytest.mark.parametrize(
    ("corrupt", "dropped", "malicious"), [(500, 500, False), (500, 500, True), (330, 330, True)]
)
def test_the_published_infeasible_rows_are_infeasible(corrupt: int, dropped: int, malicious: bool) -> None:
    assert k_regular(1000, corrupt, dropped, malicious=malicious) is None


def tail(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """Return the exact probability of `least` marked or more."""
    ways = sum(
        math.comb(marked, i) * math.comb(population - marked, drawn - i) for i in range(least, drawn + 1)
    )
    return Fraction(ways, math.comb(population, drawn))


def searched(
    n: int, corrupt: int, dropped: int, malicious: bool, sigma: int, eta: int, one_sum: bool, before: int
) -> tuple[int, int, int] | None:
    """Try every degree, in exact arithmetic."""
    for k in range(2, n - before - 1, 2):
        cut = Fraction(n * (n - k - 1), 2) * tail(n, corrupt + dropped, k, k)
        bad = next(
            c for c in range(k + 1) if tail(n - before, corrupt, k, c + 1) <= Fraction(1, n << (sigma + 1))
        )
        most = next(
            t for t in range(k, -1, -1) if tail(n, dropped, k, k - t + 1) <= Fraction(1, n << eta)
        )  # fewer than t are left where more than k - t dropped out
        least = max(2, bad + 1, (k + bad + one_sum) // 2 + 1 if malicious else 0)
        if malicious and one_sum:
            right = next(
                c
                for c in range(k // 2 + 1)
                if tail(n - before, corrupt, k // 2, c + 1) <= Fraction(1, n << (sigma + 1))
            )
            least = max(least, k // 2 + 2 + right)
        if cut <= Fraction(1, 1 << (sigma + 1)) and least <= most:
            return k, least, bad
    return None


@given(
    st.integers(5, 48),
    st.integers(0, 12),
    st.integers(0, 12),
    st.booleans(),
    st.sampled_from([(40, 20), (8, 4), (2, 1)]),
    st.booleans(),
    st.booleans(),
)
def test_no_smaller_degree_would_do(
    n: int, corrupt: int, dropped: int, malicious: bool, bits: tuple[int, int], one_sum: bool, early: bool
) -> None:
    assume(10 * (corrupt + (1 + malicious) * dropped) <= 9 * n)
    found = k_regular(
        n,
        corrupt,
        dropped,
        malicious=malicious,
        privacy_bits=bits[0],
        correctness_bits=bits[1],
        one_sum=one_sum,
        lost_before=dropped * early,
    )
    expected = searched(n, corrupt, dropped, malicious, *bits, one_sum, dropped * early)
    assert (found and (found.degree, found.threshold, found.corrupt_neighbours)) == expected


def connected(around: tuple[tuple[int, ...], ...], nodes: set[int]) -> bool:
    reached, ahead = set(), [min(nodes)] if nodes else []
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead += [other for other in around[node] if other in nodes]
    return reached == nodes


def failures(n: int, corrupt: int, dropped: int, k: int, c: int, t: int) -> tuple[float, float, float]:
    """Return how often the honest survivors fall apart, a client has too many corrupt neighbours, or too few left.

    Over all choices of who is bad, all equally likely: the same as a fixed choice on a graph in random order.
    """
    around = neighbours(bytes(32), n, k)
    cut = much = few = total = 0
    for bad in itertools.combinations(range(n), corrupt):
        much_here = any(len(set(bad) & set(row)) > c for row in around)
        for lost in itertools.combinations([i for i in range(n) if i not in bad], dropped):
            total += 1
            much += much_here
            cut += not connected(around, set(range(n)) - set(bad) - set(lost))
            few += any(len(set(row) - set(lost)) < t for row in around)
    return cut / total, much / total, few / total


@pytest.mark.parametrize(("n", "corrupt", "dropped", "sigma", "eta"), [(14, 3, 2, 3, 1), (16, 2, 2, 4, 2)])
def test_the_events_are_as_rare_as_promised(n: int, corrupt: int, dropped: int, sigma: int, eta: int) -> None:
    found = k_regular(n, corrupt, dropped, malicious=False, privacy_bits=sigma, correctness_bits=eta)
    assert found is not None
    assert found.degree < n - 2  # else there would be nothing to see
    cut, much, few = failures(n, corrupt, dropped, found.degree, found.corrupt_neighbours, found.threshold)
    assert cut <= 2.0 ** -(sigma + 1)
    assert much <= 2.0 ** -(sigma + 1)
    assert few <= 2.0**-eta
    # The control: on a ring of two neighbours the survivors do fall apart, and neighbourhoods are lost.
    cut, _, few = failures(n, corrupt, dropped, 2, 2, 2)
    assert cut > 2.0 ** -(sigma + 1)
    assert few > 2.0**-eta
    # And one corrupt neighbour less is too much to promise.
    _, much, _ = failures(n, corrupt, dropped, found.degree, found.corrupt_neighbours - 1, 2)
    assert much > 2.0 ** -(sigma + 1)


FRACTIONS = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])


def attempt(clients: int, assumptions: Assumptions, graph: Graph) -> Topology | None:
    try:
        return topology(clients, assumptions, graph=graph)
    except ValueError:
        return None


@given(
    st.integers(3, 3000),
    FRACTIONS,
    FRACTIONS,
    st.sampled_from(Adversary),
    st.sampled_from(["complete", "k-regular", "auto"]),
)
def test_what_is_found_keeps_the_rules(
    clients: int, corrupt: float, dropout: float, adversary: Adversary, graph: Graph
) -> None:
    found = attempt(clients, Assumptions(corrupt, dropout, adversary), graph)
    if found is None:
        return
    n_c, lost = counted_up(corrupt, clients), counted_up(dropout, clients)
    assert (found.corrupt, found.dropped) == (n_c, lost)
    assert found.threshold >= 2
    assert found.threshold > found.corrupt_neighbours
    assert found.corrupt_neighbours <= min(n_c, found.degree)
    assert found.honest_minimum >= 1
    if found.complete:
        assert n_c < found.threshold <= clients - lost
        assert adversary is SEMI_HONEST or 2 * found.threshold > clients + n_c
    else:
        assert found.degree % 2 == 0
        assert 6 <= found.degree < clients - 1
        assert found.threshold <= found.degree
        if adversary is MALICIOUS:
            assert 2 * found.threshold > found.degree + 1 + found.corrupt_neighbours
            assert found.threshold > found.degree / 2 + 1
            assert found.quorum <= clients - lost  # there are so many left to sign
            assert 2 * found.quorum > clients + n_c
    if graph == "auto" and not found.complete:
        assert clients >= 65
        assert found.degree + 1 <= clients / 2


@given(st.integers(20, 3000), FRACTIONS, FRACTIONS, FRACTIONS, st.sampled_from(Adversary))
def test_worse_assumptions_never_take_fewer_neighbours(
    clients: int, low: float, high: float, other: float, adversary: Adversary
) -> None:
    low, high = sorted((low, high))
    for mild, harsh in (
        (Assumptions(low, other, adversary), Assumptions(high, other, adversary)),
        (Assumptions(other, low, adversary), Assumptions(other, high, adversary)),
    ):
        before, after = (attempt(clients, assumed, "k-regular") for assumed in (mild, harsh))
        assert after is None or (before is not None and before.degree <= after.degree)
        before, after = (attempt(clients, assumed, "complete") for assumed in (mild, harsh))
        assert after is None or before is not None
    semi, malicious = (attempt(clients, Assumptions(low, other, a), "k-regular") for a in Adversary)
    assert malicious is None or (semi is not None and semi.degree <= malicious.degree)


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropout", "adversary", "threshold"),
    [
        (20, 0.05, 0.05, SEMI_HONEST, 14),  # two thirds and one
        (20, 0.05, 0.05, MALICIOUS, 14),
        (20, 0.05, 0.4, SEMI_HONEST, 12),  # what the dropouts leave
        (20, 0.7, 0.2, SEMI_HONEST, 15),  # one more than are corrupt
        (20, 0.4, 0.2, MALICIOUS, 15),  # 2t > 20 + 8
        (30, 0.0, 0.0, SEMI_HONEST, 21),
        (3, 0.0, 0.0, MALICIOUS, 3),
    ],
)
def test_thresholds_of_the_complete_graph(
    clients: int, corrupt: float, dropout: float, adversary: Adversary, threshold: int
) -> None:
    found = topology(clients, Assumptions(corrupt, dropout, adversary), graph="complete")
    assert (found.degree, found.threshold) == (clients - 1, threshold)
    assert found.honest_minimum == threshold - counted_up(corrupt, clients)


def test_auto_takes_neighbours_where_that_is_worth_it() -> None:
    assumed = Assumptions(0.05, 0.05)
    assert topology(64, assumed).complete
    assert topology(65, assumed).degree == 10
    assert topology(100, assumed).degree == 12
    assert not topology(1000, Assumptions(0.33, 0.2)).complete
    assert topology(100, Assumptions(0.3, 0.3)).complete  # 60 of 99 neighbours are not worth it
    assert topology(1000, Assumptions(0.45, 0.45)).complete
    assert topology(100, assumed, graph="complete").complete
    assert topology(30, assumed, graph="k-regular").degree == 6


def test_a_malicious_server_on_a_k_regular_graph_costs_two_bits_and_an_own_share() -> None:
    found = topology(10**4, Assumptions(0.05, 0.05, MALICIOUS))
    published = k_regular(10**4, 500, 500, malicious=True)
    harder = k_regular(10**4, 500, 500, malicious=True, privacy_bits=42, one_sum=True, lost_before=500)
    assert published is not None
    assert harder is not None
    assert (published.degree, published.threshold) == (62, 44)
    assert (found.degree, found.threshold, found.corrupt_neighbours) == (
        harder.degree,
        harder.threshold,
        harder.corrupt_neighbours,
    )
    assert (found.degree, found.threshold) == (92, 70)
    # By the published rule, 2t > k + c, a client's own share may let the server open both of its secrets.
    assert 2 * published.threshold <= published.degree + 1 + published.corrupt_neighbours + 1
    row = k_regular(100, 5, 5, malicious=True)  # 16, 11, and 5 corrupt ones
    assert row is not None
    assert 2 * row.threshold <= row.degree + 1 + row.corrupt_neighbours


def test_fractions_mean_their_decimals() -> None:
    # In binary, 0.07 of 100 is 7.000000000000001.
    assert math.ceil(0.07 * 100) == 8
    assert counted_up(0.07, 100) == 7
    assert counted_up(1 / 3, 3) == 1


def test_claims_state_the_guarantee() -> None:
    semi = topology(100, Assumptions(0.05, 0.05))
    assert "learn one sum, which has 90 honest clients" in semi.claim
    assert "A server that lies" in semi.claim
    regular = topology(1000, Assumptions(0.05, 0.05, MALICIOUS))
    assert (
        "learn one sum at most, which has 900 honest clients in it at least (alpha-summation with alpha = 0.90, "
        in regular.claim
    )
    assert regular.quorum == 526  # of 1000, where 50 sign twice
    complete = topology(20, Assumptions(0.05, 0.05, MALICIOUS))
    assert "one sum at most, which has 13 honest clients" in complete.claim
    assert (semi.survivors_minimum, complete.survivors_minimum) == (95, 14)


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropout", "adversary", "graph", "says"),
    [
        (2, 0.05, 0.05, SEMI_HONEST, "auto", "a cohort of 2: must be from 3 to 1,000,000,000 clients"),
        (10**9 + 1, 0.05, 0.05, SEMI_HONEST, "auto", "a cohort of 1,000,000,001: must be from 3"),
        (
            10,
            0.5,
            0.45,
            SEMI_HONEST,
            "complete",
            r"a cohort of 10 with corrupt = 0.5 \(5\) and dropout = 0.45 \(5\), semi-honest: the threshold must be "
            "6 or more, and only 5 clients may be left; a cohort of 20 would do, or lower fractions",
        ),
        (10, 0.5, 0.5, SEMI_HONEST, "auto", r"lower fractions would do \(corrupt \+ dropout well below 1\)"),
        (
            3,
            0.05,
            0.05,
            MALICIOUS,
            "auto",
            "3 or more, and only 2 clients may be left; a cohort of 4 would do",
        ),
        (100, 0.3, 0.4, MALICIOUS, "auto", r"\(corrupt \+ 2 dropout well below 1\)"),
        (10, 0.5, 0.4, SEMI_HONEST, "k-regular", "no degree below 9 will do; a larger cohort"),
        (100, 0.05, 0.05, SEMI_HONEST, "ring", "graph = 'ring': must be 'auto', 'complete' or 'k-regular'"),
    ],
)
def test_what_is_refused(
    clients: int, corrupt: float, dropout: float, adversary: Adversary, graph: Graph, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        topology(clients, Assumptions(corrupt, dropout, adversary), graph=graph)


def test_the_remedy_that_is_named_does_do() -> None:
    assert topology(20, Assumptions(0.5, 0.45), graph="complete").threshold == 11
    assert topology(4, Assumptions(0.05, 0.05, MALICIOUS)).threshold == 3


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan])
def test_fractions_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"corrupt = {value}: must be from 0 up to"):
        Assumptions(corrupt=value)
    with pytest.raises(ValueError, match=f"dropout = {value}: must be from 0 up to"):
        Assumptions(dropout=value)


def test_a_cohort_under_the_minimum_is_refused() -> None:
    with pytest.raises(ValueError, match="a cohort of 9: must be from 10"):
        topology(9, Assumptions(), minimum=10)
    with pytest.raises(ValueError, match="minimum = 1: must be 2 or more"):
        topology(9, Assumptions(), minimum=1)
    assert topology(10, Assumptions(), minimum=10).clients == 10
