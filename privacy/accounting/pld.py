"""Privacy loss distributions (PLD): of one step, of many, and of a mixture.

Here a law is dp-accounting's `PrivacyLossDistribution`: the distribution of the privacy loss on a grid, in both
directions, discretised pessimistically, so that any grid gives an upper bound on epsilon (Doroshenko et al. 2022,
"Connect the dots"). A finer grid is tighter and slower, so grids are refined until epsilon hardly changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedsim.privacy.accounting.steps import LocalSteps

# Each grid is ten times finer and its error, of second order, a hundred times smaller. Refinement stops when epsilon
# improves by less than this part; about a hundredth of that part remains.
TOLERANCE = 2e-3
ROUGH = 0.1  # the same, for a quick bound
NEGLIGIBLE = 1e-6  # an improvement of epsilon that is not worth a finer grid
LARGEST_EXPONENT = 709.0  # its exponential fits into a float64
POINTS = 1 << 18  # a grid with more points than this below epsilon is not tried
LEAST_NOISE = 0.02  # below, a step's loss is in the thousands, and no grid holds it


@dataclass(frozen=True)
class Step:
    """Parameters of one step's law. A larger value costs more privacy, except of the noise.

    Attributes:
        noise_multiplier: As in `LocalSteps`, above 0.
        rate: As in `LocalSteps`.
        truncation: Probability that a batch with the record is truncated.
        truncated_rate: Probability that the record is in a batch that is full without it.
    """

    noise_multiplier: float
    rate: float
    truncation: float = 0.0
    truncated_rate: float = 0.0


@lru_cache(maxsize=4096)
def step_of(local: LocalSteps) -> Step:
    """Return one of the steps."""
    if not local.truncated or local.max_batch is None or local.records is None:
        return Step(local.noise_multiplier, local.rate)
    return truncated_step(local.noise_multiplier, local.rate, local.max_batch, local.records)


@lru_cache(maxsize=4096)
def truncated_step(noise_multiplier: float, rate: float, most: int, population: int) -> Step:
    """Return the step on a Poisson sample of a population, truncated to a random subset of `most`.

    As in dp-accounting (section 4.3 of its supplementary material on privacy loss distributions): whether the other
    records fill the sample is an event that both neighbours share. If they don't, the step is a Poisson-sampled
    Gaussian. If they do, the record replaces another, which moves the sum by 2 clip norms.
    """
    from scipy.stats import binom

    full = float(binom.sf(most - 1, population - 1, rate))
    if full == 0:
        return Step(noise_multiplier, rate)
    above = float(binom.sf(most, population, rate))
    return Step(noise_multiplier, rate, full, min(above * most / full / population, 1.0))


@lru_cache(maxsize=48)  # some megabytes each
def _step_law(step: Step, grid: float) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    law = from_gaussian_mechanism(
        step.noise_multiplier,
        sampling_prob=step.rate,
        value_discretization_interval=grid,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )
    if step.truncation == 0:
        return law
    displacing = from_gaussian_mechanism(
        step.noise_multiplier / 2,
        sampling_prob=step.truncated_rate,
        value_discretization_interval=grid,
        neighboring_relation=NeighboringRelation.REPLACE_ONE,
    )
    return displacing.compute_mixture(law, step.truncation)


def composed(step: Step, count: int, grid: float) -> Any:
    """Return the law of a number of steps, 1 or more."""
    if step.rate == 1 and step.truncation == 0:  # Gaussians add up to one
        return _step_law(Step(step.noise_multiplier / math.sqrt(count), 1.0), grid)
    law = _step_law(step, grid)
    return law if count == 1 else law.self_compose(count)


@lru_cache(maxsize=12)  # some megabytes each
def mixture(step: Step, count: int, probability: float, grid: float) -> Any:
    """Return the PLD of a mixture: all `count` steps with a probability, else none (cluster sampling).

    The adversary may see whether they happen, so only delta is amplified: the loss is 0 with probability
    `1 - probability`, else that of the steps. By joint convexity of the hockey-stick divergence, H((1-p) A + p M ||
    (1-p) A + p M') <= (1-p) H(A || A) + p H(M || M') at every order, with equality where A can be told from both M
    and M'.
    """
    from dp_accounting.pld.privacy_loss_distribution import identity

    return composed(step, count, grid).compute_mixture(identity(grid), probability)


def coarsest(step: Step, count: int) -> float:
    """Return a grid just fine enough for a first bound."""
    sigma = step.noise_multiplier / (math.sqrt(count) if step.rate == 1 and step.truncation == 0 else 1)
    return 10.0 ** math.floor(math.log10(min(0.1 * max(1 / sigma, 1 / sigma**2), 100)))


def epsilon_of(law: Callable[[float], Any], grid: float, delta: float, tolerance: float = TOLERANCE) -> float:
    """Return epsilon, refining the first grid until it improves by less than the part `tolerance`.

    Each grid contains the points of the one before, so bounds never increase.
    """
    epsilon = _epsilon(law(grid), delta)
    while math.isfinite(epsilon) and epsilon / (grid / 10) < POINTS:
        grid /= 10
        before, epsilon = epsilon, min(epsilon, _epsilon(law(grid), delta))
        if before - epsilon <= max(tolerance * epsilon, NEGLIGIBLE):
            break
    return epsilon


def _epsilon(law: Any, delta: float) -> float:
    """Return the epsilon of a law.

    Between some 710 and 745, dp-accounting's epsilon overflows to infinity. Its delta for a given epsilon does not,
    so there epsilon is found by bisection on delta.
    """
    with np.errstate(over="ignore"):
        epsilon = float(law.get_epsilon_for_delta(delta))
    low, high = 0.0, 2 * LARGEST_EXPONENT
    if math.isfinite(epsilon) or law.get_delta_for_epsilon(high) > delta:
        return epsilon
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if law.get_delta_for_epsilon(middle) <= delta else (middle, high)
    return high


@lru_cache(maxsize=4096)
def epsilon_of_steps(step: Step, count: int, delta: float, tolerance: float = TOLERANCE) -> float:
    """Return epsilon of a number of steps, 1 or more, with noise above 0."""
    if step.noise_multiplier < LEAST_NOISE:
        return epsilon_without_sampling(step, count, delta)
    return epsilon_of(lambda grid: composed(step, count, grid), coarsest(step, count), delta, tolerance)


def epsilon_without_sampling(step: Step, count: int, delta: float) -> float:
    """Return an upper bound in closed form: epsilon if every step uses the record.

    The loss is normal, with mean mu^2 / 2 and standard deviation mu. If batches are truncated, a record can replace
    another and move the sum by 2 clip norms, which doubles mu.
    """
    mu = (2 if step.truncation > 0 else 1) * math.sqrt(count) / step.noise_multiplier
    return mu * mu / 2 + mu * math.sqrt(-2 * math.log(delta))
