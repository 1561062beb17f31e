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
    epsilon = local.epsilon_of(noise, times, 1e-5)
    assert delta_of(noise / math.sqrt(times), epsilon.pld) == pytest.approx(1e-5, rel=1e-6)
    grid = known_cohort(LocalSteps(noise_multiplier=noise, rate=1.0, steps=1), times, 1e-5)
    assert epsilon.pld <= grid.pld == pytest.approx(epsilon.pld, rel=1e-3)
    assert epsilon.rdp == grid.rdp


@pytest.mark.parametrize(("epsilon", "noise"), [(1.0, 3.730632), (8.0, 0.600229)])
def test_balle_and_wangs_noise(epsilon: float, noise: float) -> None:
    assert local.noise_for(epsilon, 1, 1e-5) == pytest.approx(noise, abs=1e-6)
    composed = local.noise_for(epsilon, 25, 1e-5)
    assert composed == pytest.approx(5 * noise, abs=1e-5)
    assert local.epsilon_of(composed, 25, 1e-5).pld <= epsilon
    assert local.epsilon_of(composed * 0.999, 25, 1e-5).pld > epsilon


def test_laplaces_epsilon_is_pure_and_adds_up() -> None:
    assert local.epsilon_of(2.0, 3, None).pld == 1.5
    assert local.noise_for(1.5, 3, None) == 2.0
    assert local.epsilon_of(2.0, 0, None).pld == 0.0
    assert local.epsilon_of(2.0, 0, 1e-5).best == 0.0
    assert local.epsilon_of(1e-150, 1, 1e-5).best == math.inf


def test_values_out_of_range() -> None:
    for call, says in (
        (lambda: local.epsilon_of(0.0, 1, 1e-5), "noise multiplier = 0.0"),
        (lambda: local.epsilon_of(1.0, -1, 1e-5), "participations = -1"),
        (lambda: local.epsilon_of(1.0, 1, 0.0), r"delta = 0\.0"),
        (lambda: local.noise_for(0.0, 1, 1e-5), "epsilon = 0.0"),
        (lambda: local.noise_for(1.0, 0, 1e-5), "participations = 0: must be 1 or more"),
        (lambda: local.epsilon_of(math.inf, 1, None).pld, "noise multiplier = inf"),
        (lambda: local.noise_for(-1.0, 1, None), "epsilon = -1.0"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
