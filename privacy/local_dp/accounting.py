"""Accounting of local client-level privacy: a client's own noised updates, composed over its participations.

Unit: a client. Neighbouring relation: replace-one. Adversary: sees the updates, as the server does; one that sees
less, such as the models only, learns no more. Participation is not hidden, so sampling does not amplify. Noise: ideal
real numbers.
"""

from __future__ import annotations

import math

from fedsim.privacy.accounting.adversaries import epsilon_of_gaussians
from fedsim.privacy.accounting.steps import Epsilon, check_delta
from fedsim.privacy.ranges import check_count, check_positive

NUDGE = 1 + 1e-9  # compensates for a root-finder's error


def epsilon_of(noise_multiplier: float, participations: int, delta: float | None) -> Epsilon:
    """Return epsilon of a client's updates: of Laplace noise if delta is None, else of Gaussian noise.

    Laplace noise costs a pure epsilon of 1 / noise multiplier each time (Dwork, McSherry, Nissim, Smith 2006, and
    basic composition). That of Gaussian noise is exact (`epsilon_of_gaussians`).

    Args:
        noise_multiplier: Scale of the noise (Gaussian: standard deviation) over the sensitivity, twice the clip norm,
            in L2 norm, or L1 for Laplace noise; above 0.
        participations: Most participations, 0 or more, fixed in advance.
        delta: Above 0 and below 1; None: Laplace noise, and delta 0. `ValueError` is raised for values out of range.

    >>> round(epsilon_of(3.7306320, participations=1, delta=1e-5).pld, 5)
    1.0
    """
    if delta is not None:
        check_delta(delta)
    check_positive("noise multiplier", noise_multiplier)
    check_count("participations", participations, least=0)
    if delta is None:
        return Epsilon(participations / noise_multiplier, None)
    return epsilon_of_gaussians(noise_multiplier, participations, delta)


def noise_for(epsilon: float, participations: int, delta: float | None) -> float:
    """Return the noise multiplier for an epsilon over 1 participation or more; arguments, errors as in `epsilon_of`.

    Of Gaussian noise by Balle and Wang's analytic calibration.

    >>> round(noise_for(1.0, participations=1, delta=1e-5), 6)
    3.730632
    """
    if delta is not None:
        check_delta(delta)
    check_positive("epsilon", epsilon)
    check_count("participations", participations)
    if delta is None:
        return participations / epsilon
    from dp_accounting import get_sigma_gaussian

    return float(get_sigma_gaussian(epsilon, delta)) * math.sqrt(participations) * NUDGE
