"""Accounting of local client-level privacy: a client's own noised updates, composed over its participations.

Unit: a client. Neighbouring relation: replace-one. Adversary: sees the updates, as the server does; one that sees
less, such as the models only, learns no more. Participation is not hidden, so sampling does not amplify. Noise: ideal
real numbers.
"""

from __future__ import annotations

import math

from fedsim.privacy.accounting import pld, renyi
from fedsim.privacy.accounting.steps import Epsilon, check_delta

NUDGE = 1 + 1e-9  # compensates for a root-finder's error


def epsilon_of(noise_multiplier: float, participations: int, delta: float | None) -> Epsilon:
    """Return epsilon of a client's updates: of Laplace noise if delta is None, else of Gaussian noise.

    Raises:
        ValueError: A value is out of its range.
    """
    if delta is None:
        return Epsilon(laplace(noise_multiplier, participations), None)
    return gaussian(noise_multiplier, participations, delta)


def noise_for(epsilon: float, participations: int, delta: float | None) -> float:
    """Return the noise multiplier for an epsilon: of Laplace noise if delta is None, else of Gaussian noise.

    Raises:
        ValueError: A value is out of its range.
    """
    if delta is None:
        return laplace_noise(epsilon, participations)
    return gaussian_noise(epsilon, participations, delta)


def gaussian(noise_multiplier: float, participations: int, delta: float) -> Epsilon:
    """Return epsilon of a client's updates with Gaussian noise.

    The first bound is exact (Balle and Wang 2018, arXiv 1805.06530, theorem 8): R releases equal one with noise
    smaller by sqrt(R). The classical sqrt(2 ln(1.25 / delta)) / noise multiplier is proven for epsilon up to 1 only,
    and too low above.

    Args:
        noise_multiplier: Standard deviation of the noise over the sensitivity, twice the clip norm; above 0.
        participations: Most participations, 0 or more, fixed in advance.
        delta: Above 0 and below 1.

    Raises:
        ValueError: A value is out of its range.

    >>> round(gaussian(3.7306320, participations=1, delta=1e-5).pld, 5)
    1.0
    """
    check_delta(delta)
    _check(noise_multiplier, participations)
    if participations == 0:
        return Epsilon(0.0, 0.0)
    if noise_multiplier < renyi.LEAST:
        return Epsilon(math.inf, math.inf)
    return Epsilon(
        pld.epsilon_of_gaussians(noise_multiplier, participations, delta),
        renyi.epsilon(noise_multiplier, 1.0, participations, delta),
    )


def gaussian_noise(epsilon: float, participations: int, delta: float) -> float:
    """Return the multiplier of Gaussian noise for an epsilon over a number of participations.

    Balle and Wang's analytic calibration; arguments as in `gaussian`, with 1 participation or more.

    Raises:
        ValueError: A value is out of its range.

    >>> round(gaussian_noise(1.0, participations=1, delta=1e-5), 6)
    3.730632
    """
    from dp_accounting import get_sigma_gaussian

    check_delta(delta)
    _check(epsilon, participations, least=1, name="epsilon")
    return float(get_sigma_gaussian(epsilon, delta)) * math.sqrt(participations) * NUDGE


def laplace(noise_multiplier: float, participations: int) -> float:
    """Return the pure epsilon (delta 0) of a client's updates with Laplace noise: 1 / noise multiplier, each time.

    Dwork, McSherry, Nissim, Smith 2006, and basic composition.

    Args:
        noise_multiplier: Scale of the noise over the L1 sensitivity, twice the clip norm; above 0.
        participations: Most participations, 0 or more.

    Raises:
        ValueError: A value is out of its range.
    """
    _check(noise_multiplier, participations)
    return participations / noise_multiplier


def laplace_noise(epsilon: float, participations: int) -> float:
    """Return the multiplier of Laplace noise for a pure epsilon over a number of participations.

    Raises:
        ValueError: A value is out of its range.
    """
    _check(epsilon, participations, least=1, name="epsilon")
    return participations / epsilon


def _check(value: float, participations: int, least: int = 0, name: str = "noise multiplier") -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} = {value}: must be above 0, and finite")
    if participations < least:
        raise ValueError(f"participations = {participations}: must be {least} or more")
