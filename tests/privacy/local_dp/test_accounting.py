import math

import pytest
from scipy.stats import norm

from fedsim.privacy.accounting import LocalSteps, known_cohort
from fedsim.privacy.local_dp import accounting as local


def delta_of(noise_multiplier: float, epsilon: float) -> float:
    """Return a Gaussian's delta (Balle and Wang 2018, theorem 8)."""
    half = 1 / (2 * noise_multiplier)
    with_it = norm.cdf(half - epsilon * noise_multiplier)
    return float(with_it - math.exp(epsilon) * norm.cdf(-half - epsilon * noise_multiplier))


@pytest.mark.parametrize(("noise", "times"), [(0.5, 1), (1.0, 1), (3.0, 7), (10.0, 100), (80.0, 2)])
def test_the_closed_form(noise: float, times: int) -> None:
    epsilon = local.gaussian(noise, times, 1e-5)
    assert delta_of(noise / math.sqrt(times), epsilon.pld) == pytest.approx(1e-5, rel=1e-6)
    grid = known_cohort(LocalSteps(noise_multiplier=noise, rate=1.0, steps=1), times, 1e-5)
    assert epsilon.pld <= grid.pld == pytest.approx(epsilon.pld, rel=1e-3)
    assert epsilon.rdp == grid.rdp


@pytest.mark.parametrize(("epsilon", "noise"), [(1.0, 3.730632), (8.0, 0.600229)])
def test_balle_and_wangs_noise(epsilon: float, noise: float) -> None:
    assert local.gaussian_noise(epsilon, 1, 1e-5) == pytest.approx(noise, abs=1e-6)
    composed = local.gaussian_noise(epsilon, 25, 1e-5)
    assert composed == pytest.approx(5 * noise, abs=1e-5)
    assert local.gaussian(composed, 25, 1e-5).pld <= epsilon
    assert local.gaussian(composed * 0.999, 25, 1e-5).pld > epsilon


def test_laplaces_epsilon_is_pure_and_adds_up() -> None:
    assert local.laplace(2.0, 3) == 1.5
    assert local.laplace_noise(1.5, 3) == 2.0
    assert local.laplace(2.0, 0) == 0.0
    assert local.gaussian(2.0, 0, 1e-5).best == 0.0
    assert local.gaussian(1e-150, 1, 1e-5).best == math.inf


def test_values_out_of_range() -> None:
    for call, says in (
        (lambda: local.gaussian(0.0, 1, 1e-5), "noise multiplier = 0.0"),
        (lambda: local.gaussian(1.0, -1, 1e-5), "participations = -1"),
        (lambda: local.gaussian(1.0, 1, 0.0), r"delta = 0\.0"),
        (lambda: local.gaussian_noise(0.0, 1, 1e-5), "epsilon = 0.0"),
        (lambda: local.gaussian_noise(1.0, 0, 1e-5), "participations = 0: must be 1 or more"),
        (lambda: local.laplace(math.inf, 1), "noise multiplier = inf"),
        (lambda: local.laplace_noise(-1.0, 1), "epsilon = -1.0"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
