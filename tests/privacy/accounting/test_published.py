"""The accountant against published epsilons and a second library."""

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp

from fedsim.privacy.accounting import LocalSteps, known_cohort, released_models, smallest_noise
from fedsim.privacy.accounting.pld import Step, composed
from fedsim.privacy.accounting.renyi import _curve


def closed_form(noise_multiplier: float, rate: float, order: int) -> float:
    """Return the divergence of one step at an integer order (Mironov, Talwar, Zhang 2019, section 3.3)."""
    k = np.arange(order + 1)
    log_binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    moved = (k * k - k) / (2 * noise_multiplier**2)
    terms = log_binomial + k * np.log(rate) + (order - k) * np.log1p(-rate) + moved
    return float(logsumexp(terms)) / (order - 1)


def old_epsilon(
    noise_multiplier: float, rate: float, steps: int, delta: float, most: float = np.inf, whole: bool = False
) -> float:
    """Return epsilon as papers had it until 2020: min over orders a of steps * divergence - ln(delta) / (a - 1)."""
    orders, divergences = _curve(noise_multiplier, rate)
    use = (orders <= most) & ((orders == np.floor(orders)) | (not whole))
    return float(np.min(steps * divergences[use] - np.log(delta) / (orders[use] - 1)))


@pytest.mark.parametrize(("noise", "rate"), [(1.1, 256 / 60000), (0.7, 0.2), (4.0, 0.01)])
def test_the_divergence_is_the_closed_form(noise: float, rate: float) -> None:
    orders, divergences = _curve(noise, rate)
    whole = {int(a): d for a, d in zip(orders, divergences, strict=True) if a == int(a)}
    assert len(whole) > 60
    assert [closed_form(noise, rate, a) for a in whole] == pytest.approx(list(whole.values()), rel=1e-9)


MNIST = 256 / 60000

# Rate, noise multiplier, steps, delta: epsilon as published (by all orders, or whole ones alone), by RDP, by PLD (a
# grid of 1e-4).
PUBLISHED = [
    ("tf-privacy tutorial, 1 epoch", MNIST, 1.1, 60000 // 256 + 1, 1e-5, 1.03, False, 0.7406, 0.3070),
    ("tf-privacy tutorial, 60 epochs", MNIST, 1.1, 60 * 60000 // 256 + 1, 1e-5, 3.01, False, 2.5967, 2.3818),
    pytest.param(
        (
            "tf-privacy tutorial, 15 epochs",
            MNIST,
            1.3,
            15 * 60000 // 256 + 1,
            1e-5,
            1.19,
            False,
            0.9546,
            0.8646,
        ),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        (
            "tf-privacy tutorial, 45 epochs",
            MNIST,
            0.7,
            45 * 60000 // 256 + 1,
            1e-5,
            7.10,
            False,
            6.3197,
            5.6397,
        ),
        marks=pytest.mark.slow,
    ),
    ("Abadi et al. 2016", 0.01, 4.0, 10_000, 1e-5, 1.26, True, 1.0355, 0.9470),
    ("McMahan et al. 2018", 5000 / 763430, 1.0, 5000, 1e-9, 4.634, True, 4.1833, 3.8988),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_published_epsilons(row: tuple[str, float, float, int, float, float, bool, float, float]) -> None:
    _, rate, noise, steps, delta, published, whole, rdp, pld = row
    assert old_epsilon(noise, rate, steps, delta, whole=whole) == pytest.approx(published, abs=5.1e-3)
    epsilon = known_cohort(LocalSteps(noise_multiplier=noise, rate=rate, steps=steps), 1, delta)
    assert epsilon.rdp == pytest.approx(rdp, abs=6e-5)
    assert composed(Step(noise, rate), steps, 1e-4).get_epsilon_for_delta(delta) == pytest.approx(
        pld, abs=6e-5
    )
    assert epsilon.pld == pytest.approx(pld, rel=3e-4)  # on the grid that the accountant chose
    assert epsilon.best == epsilon.pld


# McMahan et al. 2018, table 1: clients, cohort, noise multiplier: epsilon after 10^0, ..., 10^6 rounds.
TABLE_1 = [
    (1e5, 1e2, 1.0, [0.97, 0.98, 1.00, 1.07, 1.18, 2.21, 7.50]),
    (1e6, 1e1, 1.0, [0.68, 0.69, 0.69, 0.69, 0.69, 0.72, 0.73]),
    (1e6, 1e3, 1.0, [1.17, 1.17, 1.20, 1.28, 1.39, 2.44, 8.13]),
    (1e6, 1e4, 1.0, [1.73, 1.92, 2.08, 3.06, 8.49, 32.38, 187.01]),
    (1e6, 1e3, 3.0, [0.47, 0.47, 0.48, 0.48, 0.49, 0.67, 1.95]),
    (1e9, 1e3, 1.0, [0.84, 0.84, 0.84, 0.85, 0.88, 0.88, 0.88]),
]


@pytest.mark.parametrize("row", TABLE_1, ids=str)
def test_all_cells_of_mcmahans_table_1(row: tuple[float, float, float, list[float]]) -> None:
    clients, cohort, noise, epsilons = row
    ours = [old_epsilon(noise, cohort / clients, 10**k, clients**-1.1, 33, whole=True) for k in range(7)]
    assert ours == pytest.approx(epsilons, abs=0.0051)


# rate, noise multiplier, steps, delta: Opacus RDP, Opacus PRV, our RDP, our PLD.
CROSS_LIBRARY = [
    (0.01, 1.0, 1000, 1e-5, 2.1014, 1.8384, 2.1014, 1.8282),
    pytest.param((0.01, 1.1, 1000, 1e-5, 1.7118, 1.5255, 1.7118, 1.5154), marks=pytest.mark.slow),
    (0.1, 1.0, 100, 1e-5, 7.8993, 7.0571, 7.9039, 7.0466),
    (0.1, 1.0, 100, 1e-3, 5.6405, 4.7949, 5.6551, 4.7844),
    (0.1, 3.0, 512, 1e-6, 4.0510, 3.7799, 4.0510, 3.7697),
    (0.05, 0.8, 200, 1e-5, 8.7318, 7.7127, 8.7432, 7.7022),
    (1.0, 1.0, 1, 1e-5, 4.7285, 4.3874, 4.7285, 4.3772),
    (1.0, 10.0, 100, 1e-5, 4.7285, 4.3874, 4.7285, 4.3772),
]


@pytest.mark.parametrize("row", CROSS_LIBRARY, ids=str)
def test_the_table_of_two_libraries(row: tuple[float, float, int, float, float, float, float, float]) -> None:
    rate, noise, steps, delta, _, _, rdp, pld = row
    epsilon = known_cohort(LocalSteps(noise_multiplier=noise, rate=rate, steps=steps), 1, delta)
    assert (round(epsilon.pld, 4), round(epsilon.rdp or 0, 4)) == pytest.approx((pld, rdp), abs=1.01e-4)
    if rate < 1:
        assert composed(Step(noise, rate), steps, 1e-4).get_epsilon_for_delta(delta) == pytest.approx(
            pld, abs=6e-5
        )


@pytest.mark.filterwarnings(
    "ignore:Optimal order is the largest alpha", "ignore:divide by zero encountered in log"
)
@pytest.mark.parametrize("row", CROSS_LIBRARY, ids=str)
def test_opacus_agrees(row: tuple[float, float, int, float, float, float, float, float]) -> None:
    from opacus.accountants import PRVAccountant, RDPAccountant

    rate, noise, steps, delta, opacus_rdp, opacus_prv, rdp, pld = row
    by_rdp, by_prv = RDPAccountant(), PRVAccountant()
    by_rdp.history = by_prv.history = [(noise, rate, steps)]
    assert by_rdp.get_epsilon(delta) == pytest.approx(opacus_rdp, abs=6e-5)
    assert by_rdp.get_epsilon(delta) == pytest.approx(rdp, rel=3e-3)  # other orders
    assert by_prv.get_epsilon(delta) == pytest.approx(opacus_prv, abs=2e-4)
    assert by_prv.get_epsilon(delta) - pld == pytest.approx(
        0.0102, abs=4e-4
    )  # PRV adds its eps_error of 0.01


# Client rate, rate, noise multiplier, local steps, rounds: cluster law, all rounds.
CLUSTER = [
    (0.1, 0.1, 1.0, 10, 100, 7.84, 25.21),
    (0.1, 0.1, 1.0, 50, 100, 20.02, 75.56),
    (0.1, 0.2, 0.8, 5, 100, 17.23, 58.80),
    (0.5, 0.1, 1.0, 10, 50, 11.69, 16.56),
    (0.1, 1.0, 3.0, 10, 100, 24.70, 99.80),
    (0.1, 1.0, 5.0, 20, 100, 19.57, 77.33),
]


@pytest.mark.parametrize("row", CLUSTER, ids=str)
def test_cluster_sampling_and_all_rounds(row: tuple[float, float, float, int, int, float, float]) -> None:
    client_rate, rate, noise, steps, rounds, cluster, all_rounds = row
    local = LocalSteps(noise_multiplier=noise, rate=rate, steps=steps)
    released = released_models(local, client_rate, rounds, 1e-5)
    assert (released.pld, released.rdp) == (pytest.approx(cluster, abs=6e-3), None)
    assert known_cohort(local, rounds, 1e-5).pld == pytest.approx(all_rounds, abs=6e-3)


# Epsilon, delta, rate, steps: noise multiplier, and who says so.
CALIBRATED = [
    (1.0, 1e-5, 1.0, 1, 3.730632),  # Balle and Wang's analytic Gaussian, as is the next
    (8.0, 1e-5, 1.0, 1, 0.600229),
    (1.0, 1e-6, 0.1, 512, 9.66),  # jax-privacy's documentation
    pytest.param((2.0, 1e-6, 1000 / 1e6, 1500, 0.6162), marks=pytest.mark.slow),  # pfl-research on CIFAR-10
    pytest.param((2.0, 1e-6, 5000 / 1e6, 2000, 0.8641), marks=pytest.mark.slow),  # and on StackOverflow
]


@pytest.mark.parametrize("row", CALIBRATED, ids=str)
def test_published_noise(row: tuple[float, float, float, int, float]) -> None:
    epsilon, delta, rate, steps, published = row
    noise = smallest_noise(
        lambda z: known_cohort(LocalSteps(noise_multiplier=z, rate=rate, steps=steps), 1, delta), epsilon
    )
    assert noise == pytest.approx(published, rel=1.1e-3)
