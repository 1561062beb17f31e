"""The laws against brute force: densities on the line and in the plane, written down and summed.

A hockey-stick divergence is H(P || Q) = sum of max(P - e^epsilon Q, 0); the smallest delta for an epsilon is the larger
one of both directions.
"""

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from fedsim.privacy.accounting import LocalSteps, known_cohort, released_models
from fedsim.privacy.accounting.pld import Step, composed, mixture, step_of

Density = NDArray[np.float64]
WIDTH = 0.02
LINE = np.arange(-12, 12, WIDTH)


def delta_of(p: Density, q: Density, epsilon: float, cell: float) -> float:
    ratio = np.exp(epsilon)
    return float(max(np.maximum(p - ratio * q, 0).sum(), np.maximum(q - ratio * p, 0).sum()) * cell)


def epsilon_of(p: Density, q: Density, delta: float, cell: float) -> float:
    return float(brentq(lambda epsilon: delta_of(p, q, epsilon, cell) - delta, 0, 60, xtol=1e-6))


def sampled(line: Density, rate: float, noise: float, others: float = 0.0) -> tuple[Density, Density]:
    """Return the density of one noised sum, with the record (1, if its coin says so) and with it zeroed."""
    without = norm.pdf(line, others, noise)
    return rate * norm.pdf(line, others + 1, noise) + (1 - rate) * without, without


def test_one_step_is_what_integration_says() -> None:
    width = 1e-3  # the hockey stick has a kink, so the sum is exact up to about its square
    true = epsilon_of(*sampled(np.arange(-12, 12, width), 0.3, 1.2), 1e-4, width)
    bound = known_cohort(LocalSteps(noise_multiplier=1.2, rate=0.3, steps=1), 1, 1e-4).pld
    assert true <= bound == pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize(("steps", "participations"), [(2, 1), (1, 2)])
def test_two_steps_are_what_integration_in_the_plane_says(steps: int, participations: int) -> None:
    with_it, without = (np.outer(d, d) for d in sampled(LINE, 0.3, 1.2))
    true = epsilon_of(with_it, without, 1e-4, WIDTH**2)
    local = LocalSteps(noise_multiplier=1.2, rate=0.3, steps=steps)
    bound = known_cohort(local, participations, 1e-4).pld
    assert true <= bound == pytest.approx(true, rel=1e-3)


def two_rounds(rate: float, client_rate: float, others: float) -> tuple[Density, Density, float]:
    """Return the densities of two rounds' sums of a client that is in a cohort by chance and has other records."""
    cell = 0.05
    line = np.arange(-9, others + 10, cell)
    absent = norm.pdf(line, 0, 1.2)
    rounds = [(1 - client_rate) * absent + client_rate * d for d in sampled(line, rate, 1.2, others)]
    with_it, without = (np.outer(d, d) for d in rounds)
    return with_it, without, cell**2


def test_the_bound_of_cluster_sampling_is_attained_if_other_records_reveal_participation() -> None:
    with_it, without, cell = two_rounds(0.3, 0.25, 30.0)
    true = epsilon_of(with_it, without, 1e-4, cell)
    bound = released_models(LocalSteps(noise_multiplier=1.2, rate=0.3, steps=1), 0.25, 2, 1e-4).pld
    assert true <= bound * (1 + 1e-6)
    assert bound == pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize("others", [0.0, 0.5, 1.0, 3.0, 6.0])
def test_the_cluster_law_is_a_bound_whatever_the_others_are(others: float) -> None:
    with_it, without, cell = two_rounds(0.3, 0.25, others)
    law = mixture(Step(1.2, 0.3), 1, 0.25, 1e-3).self_compose(2)
    for epsilon in (0.1, 0.5, 1.0, 2.0, 3.0):
        assert delta_of(with_it, without, epsilon, cell) <= law.get_delta_for_epsilon(epsilon) * (1 + 1e-6)


def test_absent_is_not_the_same_as_present_without_the_record() -> None:
    # A client of 51 records takes part with probability 0.1; the sum of the others' clipped gradients is 50.
    line = np.arange(-12, 65, WIDTH)
    present, without = sampled(line, 1.0, 1.0, 50.0)
    absent = norm.pdf(line)
    true = epsilon_of(0.1 * present + 0.9 * absent, 0.1 * without + 0.9 * absent, 1e-5, WIDTH)
    assert true == pytest.approx(3.80, abs=0.005)
    # The mixture rule puts the client's absence for its presence without the record: a step at rate 0.1.
    mixed = composed(Step(1.0, 0.1), 1, 1e-4).get_epsilon_for_delta(1e-5)
    assert mixed == pytest.approx(1.685, abs=0.002)
    cluster = released_models(LocalSteps(noise_multiplier=1.0, rate=1.0, steps=1), 0.1, 1, 1e-5).pld
    assert mixed < true <= cluster * (1 + 1e-6)
    assert cluster == pytest.approx(true, rel=1e-3)


def test_the_product_of_rates_is_not_the_rate() -> None:
    # As above with a record at rate 0.5 in the client: the naive rule takes a step at rate 0.05.
    line = np.arange(-12, 65, WIDTH)
    present, without = sampled(line, 0.5, 1.0, 50.0)
    absent = norm.pdf(line)
    true = epsilon_of(0.1 * present + 0.9 * absent, 0.1 * without + 0.9 * absent, 1e-5, WIDTH)
    naive = composed(Step(1.0, 0.1 * 0.5), 1, 1e-4).get_epsilon_for_delta(1e-5)
    cluster = released_models(LocalSteps(noise_multiplier=1.0, rate=0.5, steps=1), 0.1, 1, 1e-5).pld
    assert naive < 0.5 * true
    assert true <= cluster * (1 + 1e-6)


def test_the_naive_rule_under_reports_even_for_a_client_of_one_record() -> None:
    # All records in all steps and a linear loss: ten local steps are one Gaussian of noise z / sqrt(10), so 100 rounds
    # are 100 Poisson-sampled Gaussians.
    naive = composed(Step(3.0, 0.1), 10 * 100, 1e-4).get_epsilon_for_delta(1e-5)
    true = composed(Step(3.0 / np.sqrt(10), 0.1), 100, 1e-4).get_epsilon_for_delta(1e-5)
    cluster = released_models(LocalSteps(noise_multiplier=3.0, rate=1.0, steps=10), 0.1, 100, 1e-5).pld
    assert (naive, true) == (pytest.approx(4.884, abs=2e-3), pytest.approx(7.793, abs=2e-3))
    assert naive < true < cluster


def losses_by_hand(rate: float, noise: float, width: float, remove: bool) -> tuple[NDArray[np.float64], int]:
    """Return one step's law of losses on a grid, each rounded to the nearest point, and the index of loss 0."""
    line = np.linspace(-11 * noise, 11 * noise + 1, 400_001)
    with_it, without = sampled(line, rate, noise)
    log_ratio = np.log1p(rate * np.expm1((2 * line - 1) / (2 * noise**2)))
    index = np.rint((log_ratio if remove else -log_ratio) / width).astype(int)
    zero = -int(index.min())
    law = np.bincount(index + zero, weights=(with_it if remove else without) * (line[1] - line[0]))
    return law, zero


def many(law: NDArray[np.float64], zero: int, times: int) -> tuple[NDArray[np.float64], int]:
    size = times * (len(law) - 1) + 1
    return np.fft.irfft(np.fft.rfft(law, size) ** times, size), zero * times


@pytest.mark.parametrize(
    ("client_rate", "rate", "noise", "steps", "rounds", "known"),
    [(0.1, 0.1, 1.0, 10, 100, 7.84), (0.1, 0.2, 0.8, 5, 100, 17.23), (0.5, 0.1, 1.0, 10, 50, 11.69)],
)
def test_cluster_values_come_out_of_a_second_computation(
    client_rate: float, rate: float, noise: float, steps: int, rounds: int, known: float
) -> None:
    width, epsilons = 0.01, []
    for remove in (True, False):
        law, zero = many(*losses_by_hand(rate, noise, width, remove), steps)
        law = client_rate * law
        law[zero] += 1 - client_rate
        law, zero = many(law, zero, rounds)
        loss = (np.arange(len(law)) - zero) * width
        use = loss > 0
        epsilons.append(
            brentq(
                lambda e, loss=loss[use], law=law[use]: (
                    (law * -np.expm1(np.minimum(e - loss, 0))).sum() - 1e-5
                ),
                0,
                100,
            )
        )
    assert max(epsilons) == pytest.approx(known, abs=0.01)


def cut(line: Density, gradients: Sequence[int], rate: float, most: int, noise: float) -> Density:
    """Return the density of the noised sum of a Poisson batch, of which a random subset of so many at most stays."""
    density = np.zeros_like(line)
    for coins in product((False, True), repeat=len(gradients)):
        batch = [gradient for gradient, heads in zip(gradients, coins, strict=True) if heads]
        subsets = list(combinations(batch, min(most, len(batch))))
        chance = np.prod([rate if heads else 1 - rate for heads in coins])
        for subset in subsets:
            density += chance / len(subsets) * norm.pdf(line, sum(subset), noise)
    return density


@pytest.mark.parametrize(("records", "most", "rate", "noise"), [(3, 1, 0.5, 1.0), (4, 2, 0.5, 1.0)])
def test_truncated_batches_stay_below_their_law_but_not_always_below_the_poisson_law(
    records: int, most: int, rate: float, noise: float
) -> None:
    step = step_of(LocalSteps(noise_multiplier=noise, rate=rate, steps=1, max_batch=most, records=records))
    law, poisson = composed(step, 1, 1e-3), composed(Step(noise, rate), 1, 1e-3)
    exceeded = False
    for others in product((-1, 0, 1), repeat=records - 1):
        if list(others) != sorted(others):
            continue
        with_it, without = (cut(LINE, (own, *others), rate, most, noise) for own in (1, 0))
        for epsilon in (0.2, 0.5, 1.0, 1.5, 2.0, 3.0):
            true = delta_of(with_it, without, epsilon, WIDTH)
            assert true <= law.get_delta_for_epsilon(epsilon)
            exceeded |= true > poisson.get_delta_for_epsilon(epsilon)
    if most == 1:  # the Poisson law, which forgets that a record takes another's place, is no bound
        assert exceeded


@pytest.mark.parametrize("max_batch", [150, 120])
def test_truncated_batches_are_accounted_as_dp_accounting_does(max_batch: int) -> None:
    import dp_accounting as dpa

    event = dpa.TruncatedSubsampledGaussianDpEvent(
        dataset_size=10_000, sampling_probability=0.01, truncated_batch_size=max_batch, noise_multiplier=1.0
    )
    accountant = dpa.pld.PLDAccountant(
        dpa.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3
    )
    theirs = accountant.compose(dpa.SelfComposedDpEvent(event, 1000)).get_epsilon(1e-5)
    local = LocalSteps(noise_multiplier=1.0, rate=0.01, steps=1000, max_batch=max_batch, records=10_000)
    assert composed(step_of(local), 1000, 1e-3).get_epsilon_for_delta(1e-5) == pytest.approx(theirs, rel=1e-9)
    assert theirs == pytest.approx({150: 1.831, 120: 5.297}[max_batch], abs=2e-3)


SHAPES = {
    "noise_multiplier": st.sampled_from([0.6, 0.8, 1.0, 1.7, 3.0]),
    "rate": st.sampled_from([0.05, 0.2, 0.5, 1.0]),
    "steps": st.sampled_from([1, 2, 5, 20]),
}
ROUNDS = st.sampled_from([1, 3, 10, 40])
DELTAS = st.sampled_from([1e-6, 1e-5, 1e-3])
CLIENT_RATES = st.sampled_from([0.05, 0.3, 0.9, 1.0])


@pytest.mark.slow
@settings(max_examples=12)
@given(
    a=st.fixed_dictionaries(SHAPES),
    b=st.fixed_dictionaries(SHAPES),
    rounds=st.tuples(ROUNDS, ROUNDS),
    delta=st.tuples(DELTAS, DELTAS),
    client_rate=st.tuples(CLIENT_RATES, CLIENT_RATES),
)
def test_a_dominated_setting_has_no_smaller_epsilon(
    a: dict[str, float],
    b: dict[str, float],
    rounds: tuple[int, int],
    delta: tuple[float, float],
    client_rate: tuple[float, float],
) -> None:
    pairs = {name: sorted((a[name], b[name])) for name in SHAPES}
    mild = {
        "noise_multiplier": pairs["noise_multiplier"][1],
        "rate": pairs["rate"][0],
        "steps": int(pairs["steps"][0]),
    }
    harsh = {
        "noise_multiplier": pairs["noise_multiplier"][0],
        "rate": pairs["rate"][1],
        "steps": int(pairs["steps"][1]),
    }
    slack = 1 + 1e-4  # they may stand on different grids
    known = [
        known_cohort(LocalSteps(**mild), min(rounds), max(delta)),
        known_cohort(LocalSteps(**harsh), max(rounds), min(delta)),
    ]
    assert known[0].pld <= known[1].pld * slack
    assert known[0].rdp is not None
    assert known[1].rdp is not None
    assert known[0].rdp <= known[1].rdp * slack
    assert all(k.pld <= k.rdp * slack for k in known if k.rdp is not None)
    released = [
        released_models(LocalSteps(**mild), min(client_rate), min(rounds), max(delta)),
        released_models(LocalSteps(**harsh), max(client_rate), max(rounds), min(delta)),
    ]
    assert released[0].pld <= released[1].pld * slack
    # Who sees less learns no more, in as many participations as there are rounds.
    assert released[1].pld <= known[1].pld * slack


def test_an_epsilon_at_which_dp_accounting_overflows_is_found_all_the_same() -> None:
    # Gaussians alone: mu = sqrt(steps) / 0.6, and epsilon is near mu^2 / 2 + 3.09 mu.
    epsilons = [
        known_cohort(LocalSteps(noise_multiplier=0.6, rate=1.0, steps=steps), 1, 1e-3).pld
        for steps in range(430, 480, 6)
    ]
    assert any(710 < epsilon < 745 for epsilon in epsilons)
    for steps, epsilon in zip(range(430, 480, 6), epsilons, strict=True):
        mu = math.sqrt(steps) / 0.6
        assert epsilon == pytest.approx(mu**2 / 2 + 3.0902 * mu, rel=2e-3)
