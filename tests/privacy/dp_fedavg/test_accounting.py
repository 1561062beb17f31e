"""Accounting of central client-level privacy: published numbers, brute force, and parameters without a guarantee."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_two_probability_mass_functions
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, norm

from fedsim.privacy.accounting import Epsilon, NoTheorem, known_cohort
from fedsim.privacy.accounting.renyi import epsilon_without_replacement
from fedsim.privacy.accounting.steps import LocalSteps
from fedsim.privacy.dp_fedavg import accounting as central
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism
from fedsim.privacy.dp_fedavg.event import CohortTerms
from fedsim.privacy.events import Relation, Sampling

POISSON = CohortMechanism(noise_multiplier=1.0, rate=0.01)
FIXED = CohortMechanism(noise_multiplier=1.0, rate=0.01, sampling=Sampling.FIXED, clients=10_000)


def truncated(most: int) -> CohortMechanism:
    return replace(POISSON, sampling=Sampling.TRUNCATED_POISSON, clients=10_000, max_cohort=most)


def bounds(answer: central.AdversaryCost) -> Epsilon:
    assert answer.epsilon is not None
    return answer.epsilon


# --- dp.md 1.2: m/N = 0.01, z = 1, T = 1000, delta = 1e-5 -------------------------------------------------------


def test_the_most_expensive_confusion() -> None:
    released = bounds(central.released_models(POISSON, 1000, 1e-5))
    assert (released.pld, released.rdp) == (pytest.approx(1.828, abs=1e-3), pytest.approx(2.101, abs=1e-3))
    fixed = bounds(central.released_models(FIXED, 1000, 1e-5))
    assert fixed.rdp == pytest.approx(20.99, abs=5e-3)
    known = bounds(central.known_cohort(POISSON, 1000, 1e-5))
    assert (known.pld, known.rdp) == (pytest.approx(633.9, abs=0.05), pytest.approx(654.9, abs=0.05))
    assert fixed.pld == known.pld  # no theorem, no amplification
    added = replace(POISSON, relation=Relation.ADD_OR_REMOVE_ONE)
    assert bounds(central.released_models(added, 1000, 1e-5)) == released


@pytest.mark.parametrize(("most", "epsilon"), [(150, 1.831), (120, 5.297)])
def test_truncated_cohorts(most: int, epsilon: float) -> None:
    answer = central.released_models(truncated(most), 1000, 1e-5, tolerance=0.1)
    assert bounds(answer).pld == pytest.approx(epsilon, abs=2e-3)
    assert bounds(answer).rdp is None
    assert "no theorem for cohorts that are cut" in answer.why
    # Who knows the cohorts gains nothing from the cut, and a cut that never comes costs nothing.
    assert bounds(central.known_cohort(truncated(most), 10, 1e-5)).rdp is not None
    everyone = replace(truncated(10_000), rate=1.0)
    assert bounds(central.released_models(everyone, 10, 1e-5)) == bounds(
        central.known_cohort(POISSON, 10, 1e-5)
    )


def test_a_client_is_to_its_cohort_as_a_record_to_its_batch() -> None:
    # McMahan et al. 2018's headline; test_published has it, and Table 1, by the conversion of its time.
    release = CohortMechanism(noise_multiplier=1.0, rate=5000 / 763430)
    ours = bounds(central.released_models(release, 5000, 1e-9))
    assert ours.pld == pytest.approx(3.8988, rel=3e-4)
    assert ours.rdp == pytest.approx(4.1833, abs=6e-5)
    records = known_cohort(LocalSteps(noise_multiplier=1.0, rate=5000 / 763430, steps=5000), 1, 1e-9)
    assert ours == records


def test_separated_cohorts_compose_the_rounds_of_a_clients_group() -> None:
    # dp.md 1.7: N = 1e6, m = 1e3, T = 1500, b = 50 with pfl's sigma: 12.0 amplified, 101 not.
    release = CohortMechanism(
        noise_multiplier=0.5315, rate=50 * 1e3 / 1e6, sampling=Sampling.SEPARATED, separation=50
    )
    answers = central.side_by_side(release, 1500, 1e-6)
    assert bounds(answers["released-models"]).pld == pytest.approx(12.0, abs=0.05)
    assert bounds(answers["known-cohort"]).pld == pytest.approx(101.3, abs=0.05)
    assert release.chances(1500) == 30
    assert release.chances(1501) == 31


@pytest.mark.parametrize(
    "row",
    [
        (1.0, 1e-6, 0.1, 512, 9.66),  # jax-privacy's documentation
        pytest.param((2.0, 1e-6, 1e-3, 1500, 0.6162), marks=pytest.mark.slow),  # pfl-research: CIFAR-10
        pytest.param((2.0, 1e-6, 5e-3, 2000, 0.8641), marks=pytest.mark.slow),  # StackOverflow
        pytest.param((2.0, 1e-6, 5e-3, 5000, 1.0563), marks=pytest.mark.slow),  # FLAIR
    ],
    ids=str,
)
def test_published_noise(row: tuple[float, float, float, int, float]) -> None:
    epsilon, delta, rate, rounds, published = row
    release = CohortMechanism(noise_multiplier=1.0, rate=rate)
    noise = central.noise_for(epsilon, "released-models", release, rounds, delta)
    assert noise == pytest.approx(published, rel=1.5e-3)
    found = bounds(central.released_models(replace(release, noise_multiplier=noise), rounds, delta))
    assert 0.995 * epsilon < found.best <= epsilon


# --- brute force ------------------------------------------------------------------------------------------------

WIDTH = 2e-3
LINE = np.arange(-14, 14, WIDTH)


def cohort_density(updates: tuple[float, ...], cohort: int, noise: float) -> NDArray[np.float64]:
    """Return the density of the noised sum of a cohort of fixed size."""
    sets = list(combinations(updates, cohort))
    return sum((norm.pdf(LINE, sum(s), noise) for s in sets), np.zeros_like(LINE)) / len(sets)


def true_epsilon(p: NDArray[np.float64], q: NDArray[np.float64], delta: float) -> float:
    def excess(epsilon: float) -> float:
        ratio = math.exp(epsilon)
        return (
            float(max(np.maximum(p - ratio * q, 0).sum(), np.maximum(q - ratio * p, 0).sum()) * WIDTH) - delta
        )

    return float(brentq(excess, 0, 60, xtol=1e-6))


def test_fixed_cohorts_replace_a_client_by_twice_the_clip_norm() -> None:
    # Three of four clients are drawn; one is 1, or replaced by -1, or zeroed. All others are at -1 or 1.
    worst, worst_zeroed = 0.0, 0.0
    for others in ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (-1.0, 0.0, 1.0)):
        here, replaced, zeroed = (cohort_density((own, *others), 3, 2.0) for own in (1.0, -1.0, 0.0))
        worst = max(worst, true_epsilon(here, replaced, 1e-4))
        worst_zeroed = max(worst_zeroed, true_epsilon(here, zeroed, 1e-4))
    bound = epsilon_without_replacement(2.0, 3, 4, 1, 1e-4)
    assert worst_zeroed < worst < bound
    # The control: with the noise over one clip norm, as Flower passes it on, the truth is above the bound.
    assert epsilon_without_replacement(4.0, 3, 4, 1, 1e-4) < worst


# --- adversaries -------------------------------------------------------------------------------------------------


def test_adversaries_side_by_side() -> None:
    answers = central.side_by_side(POISSON, 100, 1e-5)
    assert list(answers) == ["server", "known-cohort", "released-models"]
    assert bounds(answers["server"]).best == math.inf
    assert "trusted" in answers["server"].why
    known, released = bounds(answers["known-cohort"]), bounds(answers["released-models"])
    assert released.pld < known.pld
    assert {answer.relation for answer in answers.values()} == {Relation.ZERO_OUT}


def test_under_known_cohorts_an_added_client_is_visible() -> None:
    added = replace(POISSON, relation=Relation.ADD_OR_REMOVE_ONE)
    with pytest.raises(NoTheorem, match="sees whether a client is there"):
        central.known_cohort(added, 10, 1e-5)
    answer = central.side_by_side(added, 10, 1e-5)["known-cohort"]
    assert (answer.epsilon, answer.relation) == (None, None)
    assert "sees whether a client is there" in answer.why


# Cells of the releases on the line; what is told of them is post-processing, so that their epsilon is a lower bound.
CELLS = np.arange(-16, 40.01, 0.25)


def cells_of(others: int, rate: float, own: float | None, noise: float) -> NDArray[np.float64]:
    """Return the probabilities of a noised sum: so many clients are at 1, and one more, if it is there, is at `own`."""
    chances = binom.pmf(np.arange(others + 1), others, rate)

    def at_path(moved: float) -> NDArray[np.float64]:
        lines = (
            chance * norm.cdf(CELLS - moved - drawn, scale=noise) for drawn, chance in enumerate(chances)
        )
        return sum(lines, np.zeros_like(CELLS))

    cumulated = at_path(0.0) if own is None else (1 - rate) * at_path(0.0) + rate * at_path(own)
    cells: NDArray[np.float64] = np.diff(np.concatenate([[0.0], cumulated, [1.0]]))
    return np.maximum(cells, 1e-30)  # far out, where a difference of float64 numbers is 0, or a little below


def least_epsilon(p: NDArray[np.float64], q: NDArray[np.float64], rounds: int, delta: float) -> float:
    """Return what the epsilon of so many releases is at least: of the cells, on a grid that is rounded down."""
    laws = [
        from_two_probability_mass_functions(
            dict(enumerate(np.log(one))),
            dict(enumerate(np.log(other))),
            pessimistic_estimate=False,
            value_discretization_interval=1e-4,
        )
        for one, other in ((p, q), (q, p))
    ]
    return max(float(law.self_compose(rounds).get_epsilon_for_delta(delta)) for law in laws)


def test_a_rate_that_is_made_of_a_protected_number_tells_it_and_a_declared_one_does_not() -> None:
    # 20 clients, cohorts of 10, 100 rounds, noise multiplier 4; all are at 1, and the one who is there or not is at -1.
    rounds, delta, noise = 100, 1e-3, 4.0
    added = CohortMechanism(noise_multiplier=noise, rate=0.5, relation=Relation.ADD_OR_REMOVE_ONE, cohort=10)
    claimed = bounds(central.released_models(added, rounds, delta)).best
    assert claimed == pytest.approx(4.253, abs=1e-3)
    # The control, as it was: with 10 of 20, or of 19 clients, all of their rates change.
    with_it, without = cells_of(19, 10 / 20, -1.0, noise), cells_of(19, 10 / 19, None, noise)
    assert least_epsilon(with_it, without, rounds, delta) > 8.66
    # Now it is refused, and a rate that is declared does what is claimed, whatever the others' number.
    with pytest.raises(ValueError, match="clients = 20: their number is what add-or-remove-one protects"):
        replace(added, clients=20)
    for others, tight in ((0, 0.99), (19, 0.8)):  # the others' coins hide a little too
        with_it, without = (cells_of(others, 0.5, own, noise) for own in (-1.0, None))
        assert tight * claimed < least_epsilon(with_it, without, rounds, delta) < claimed


@pytest.mark.parametrize("sampling", [Sampling.FIXED, Sampling.TRUNCATED_POISSON, Sampling.SEPARATED])
def test_only_coins_have_a_law_without_the_number_of_clients(sampling: Sampling) -> None:
    with pytest.raises(
        ValueError, match=f"sampling = {sampling}: its distribution depends on the number of clients"
    ):
        replace(POISSON, relation=Relation.ADD_OR_REMOVE_ONE, sampling=sampling)


def test_a_declared_rate_is_that_of_the_ledgers_line_and_its_population_is_what_it_expects() -> None:
    line = CohortTerms(1.0, Relation.ADD_OR_REMOVE_ONE, Sampling.POISSON, None, 20, None, None, 0.05)
    release = CohortMechanism.of(line)
    assert (release.rate, release.clients, release.population) == (0.05, None, 400)
    with pytest.raises(ValueError, match=r"must be below 1 / \(cohort / rate\) = 1 / 400"):
        central.released_models(release, 1, 1 / 400)
    deployed = release.of_population(10**6, 1000, 20)
    assert (deployed.rate, deployed.clients, deployed.population) == (1e-3, None, 10**6)
    with pytest.raises(ValueError, match="rate: needed where the number of clients is not given"):
        CohortMechanism.of(line._replace(rate=None))
    public = CohortTerms(1.0, Relation.ZERO_OUT, Sampling.POISSON, 400, 20, None, None)
    assert CohortMechanism.of(public).rate == 0.05


def test_a_participation_budget_is_a_bound_for_known_cohorts_and_no_coin() -> None:
    answers = central.side_by_side(POISSON, 1000, 1e-5, max_participations=5)
    assert bounds(answers["known-cohort"]) == bounds(central.known_cohort(POISSON, 5, 1e-5))
    assert answers["released-models"].epsilon is None
    assert "Poisson-sampled" in answers["released-models"].why
    few = central.side_by_side(POISSON, 3, 1e-5, max_participations=5)
    assert bounds(few["known-cohort"]) == bounds(central.known_cohort(POISSON, 3, 1e-5))


def test_full_cohorts_are_one_gaussian_for_all_adversaries() -> None:
    for release in (replace(POISSON, rate=1.0), replace(FIXED, rate=1.0)):
        answers = central.side_by_side(release, 16, 1e-5)
        assert answers["known-cohort"].epsilon == answers["released-models"].epsilon
        # sqrt(16) times less noise: z = 1/4.
        assert bounds(answers["known-cohort"]).pld == pytest.approx(
            bounds(central.known_cohort(replace(POISSON, noise_multiplier=0.25), 1, 1e-5)).pld
        )


def test_no_rounds_cost_nothing_and_next_to_no_noise_costs_all() -> None:
    for release in (POISSON, FIXED, truncated(150)):
        assert bounds(central.released_models(release, 0, 1e-5)).best == 0.0
        faint = replace(release, noise_multiplier=1e-120)
        assert bounds(central.released_models(faint, 1, 1e-5)).best == math.inf
        assert bounds(central.known_cohort(faint, 1, 1e-5)).best == math.inf


def test_a_hypothetical_population_keeps_the_noise_on_the_mean_and_never_replaces_the_simulated_one() -> None:
    # pfl-research's cohort scale: 50 simulated for 1000 of a million; .6162 * 50 / 1000 = .03081.
    simulated = CohortMechanism(noise_multiplier=0.03081, rate=0.05, clients=1000)
    deployed = simulated.of_population(10**6, 1000, 50)
    assert deployed.noise_multiplier == pytest.approx(0.6162)
    assert (deployed.rate, deployed.clients) == (1e-3, 10**6)
    assert deployed.noise_multiplier / 1000 == pytest.approx(simulated.noise_multiplier / 50)
    assert bounds(central.released_models(deployed, 100, 1e-7)).pld < 2
    assert bounds(central.released_models(simulated, 100, 1e-4)).pld > 1000
    assert truncated(150).of_population(10**6, 10_000, 100).max_cohort == 15_000
    with pytest.raises(ValueError, match="a cohort of 5 in 3 clients"):
        simulated.of_population(3, 5, 50)


def test_noise_for_the_server_is_none() -> None:
    with pytest.raises(ValueError, match="adversary = server: it is trusted"):
        central.noise_for(1.0, "server", POISSON, 10, 1e-5)
    with pytest.raises(ValueError, match="adversary = 'nobody': allowed: server, known-cohort"):
        central.noise_for(1.0, "nobody", POISSON, 10, 1e-5)
    with pytest.raises(NoTheorem, match="Poisson-sampled"):
        central.noise_for(1.0, "released-models", POISSON, 10, 1e-5, max_participations=2)
    noise = central.noise_for(1.0, "known-cohort", POISSON, 10, 1e-5, max_participations=4)
    found = bounds(central.known_cohort(replace(POISSON, noise_multiplier=noise), 4, 1e-5)).best
    assert 0.998 < found <= 1.0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"noise_multiplier": 0.0}, "noise multiplier = 0.0"),
        ({"noise_multiplier": math.nan}, "noise multiplier = nan"),
        ({"rate": 0.0}, "client rate = 0.0"),
        ({"rate": 1.5}, "client rate = 1.5"),
        ({"relation": Relation.REPLACE_ONE}, "relation = replace-one"),
        ({"clients": 0}, "clients = 0"),
        ({"cohort": 0}, "cohort = 0"),
        ({"sampling": Sampling.FIXED}, "sampling = fixed: needs the number of clients"),
        ({"max_cohort": 3}, "max cohort = 3: goes with truncated-poisson"),
        ({"sampling": Sampling.TRUNCATED_POISSON, "clients": 9}, "max cohort = None"),
        ({"sampling": Sampling.TRUNCATED_POISSON, "clients": 9, "max_cohort": 0}, "max cohort = 0"),
        ({"separation": 2}, "separation = 2: goes with b-min-sep"),
        ({"sampling": Sampling.SEPARATED, "separation": 0}, "separation = 0"),
    ],
)
def test_values_out_of_range(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CohortMechanism(**{"noise_multiplier": 1.0, "rate": 0.5} | fields)  # type: ignore[arg-type]


def test_a_delta_at_which_publishing_a_client_would_pass_is_refused() -> None:
    for delta in (1e-4, 1e-3):
        with pytest.raises(ValueError, match=r"must be below 1 / clients = 1 / 10000"):
            central.side_by_side(FIXED, 10, delta)
    with pytest.raises(ValueError, match=r"delta = 1\.0"):
        central.released_models(POISSON, 10, 1.0)
    with pytest.raises(ValueError, match="rounds = -1"):
        central.released_models(POISSON, -1, 1e-5)
