"""Renyi differential privacy of sampled Gaussian steps, by dp-accounting (Mironov et al. 2019, Wang et al. 2019)."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOW = 0.02
ROUNDING = 1e-13  # of a divergence near 0: some dozens of float64 steps, by order - 1
LEAST = 1e-100  # its square is a float

Curve = tuple[Any, NDArray[np.float64]]  # the orders, and the Renyi divergence of one step at each


def _curve_of(relation: Any, step: Any) -> Curve:
    import dp_accounting as dpa

    def other(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    accountant = dpa.rdp.RdpAccountant(neighboring_relation=relation)
    logger = logging.getLogger("absl")
    logger.addFilter(other)  # of an order that dp-accounting excludes: the bound by the others is valid
    try:
        accountant.compose(step)
    finally:
        logger.removeFilter(other)
    # The curve takes 100 ms and has no public name. `ROUNDING` is added back for cancellation: from a divergence
    # below 0, dp-accounting computes an epsilon of 0 for any number of steps.
    return accountant._orders, np.maximum(accountant._rdp, 0.0) + ROUNDING


@lru_cache(maxsize=1024)
def _curve(noise_multiplier: float, rate: float) -> Curve:
    import dp_accounting as dpa

    step = dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(noise_multiplier))
    return _curve_of(dpa.NeighboringRelation.REPLACE_SPECIAL, step)


@lru_cache(maxsize=64)
def _curve_without_replacement(noise_multiplier: float, sample: int, population: int) -> Curve:
    import dp_accounting as dpa

    # Under this relation dp-accounting's noise multiplier is over the sensitivity to replacement, twice the clip norm.
    gaussian = dpa.GaussianDpEvent(noise_multiplier / 2)
    step = dpa.SampledWithoutReplacementDpEvent(population, sample, gaussian)
    return _curve_of(dpa.NeighboringRelation.REPLACE_ONE, step)


def _epsilon(curve: Curve, count: int, delta: float) -> float:
    from dp_accounting.rdp import compute_epsilon

    orders, divergences = curve
    return float(compute_epsilon(orders, divergences * count, delta)[0])


def epsilon(noise_multiplier: float, rate: float, count: int, delta: float) -> float:
    """Return epsilon of a number of steps, for a noise multiplier of at least `LEAST`."""
    # The series do not converge for low noise; rate 1 is an upper bound.
    return _epsilon(_curve(noise_multiplier, rate if noise_multiplier >= LOW else 1.0), count, delta)


def epsilon_without_replacement(
    noise_multiplier: float, sample: int, population: int, count: int, delta: float
) -> float:
    """Return epsilon of Gaussian steps on samples of fixed size, under replace-one.

    Wang, Balle, Kasiviswanathan 2019 ("Subsampled Renyi differential privacy and analytical moments accountant",
    theorem 27). A replaced term moves the sum by twice the clip norm.

    Args:
        noise_multiplier: Standard deviation over the clip norm, `LEAST` or more.
        sample: Size of a sample, 1 to `population`.
        population: Public.
        count: Steps, 1 or more.
        delta: Above 0 and below 1.
    """
    return _epsilon(_curve_without_replacement(noise_multiplier, sample, population), count, delta)
