"""Audits: repeated releases of a mechanism give a lower bound on its epsilon, and show the low bits of its noise.

An (epsilon, delta)-private mechanism keeps P(E) <= e^epsilon Q(E) + delta for each event E, with P and Q its outputs'
distributions on neighbouring inputs, either way round. So epsilon >= ln((P(E) - delta) / Q(E)), and Clopper-Pearson
intervals for both probabilities turn it into a bound with known confidence (Jagielski, Ullman, Oprea 2020, "Auditing
differentially private machine learning"; Nasr et al. 2021). A bound above the claimed epsilon disproves the claim;
one below proves nothing. The release defines what is sensitive and which inputs are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

EVENLY, CLOSELY = 256, 64  # thresholds that are tried: over all runs, and in each tail


class Release(Protocol):
    """A mechanism on two neighbouring inputs, and a statistic of its release."""

    def __call__(self, generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        """Return the statistic of many independent runs, `(trials,)`.

        Any function of the release is valid; its log-likelihood ratio gives the largest bound.

        Args:
            generator: Source of the mechanism's randomness.
            trials: Number of runs.
            present: Whether the record is in the input.
        """


@dataclass(frozen=True)
class Measured:
    """A lower bound on epsilon.

    Attributes:
        epsilon: 0 or more.
        delta: Delta at which it holds.
        confidence: Probability with which it holds, at least.
        trials: Runs on each input.
        event: The event that distinguished the inputs, in words; empty if none did.
    """

    epsilon: float
    delta: float
    confidence: float
    trials: int
    event: str


def measure(
    release: Release, trials: int, delta: float, generator: np.random.Generator, confidence: float = 0.95
) -> Measured:
    """Return a lower bound on a mechanism's epsilon.

    For each direction, half of the runs select the half-line that distinguishes the inputs best; the other half
    measure it, so the search costs no confidence. The level is split in four: two directions of two intervals each.
    The bound can't exceed about ln(trials / 9) at 95 %.

    Args:
        release: The mechanism, on both inputs.
        trials: Runs on each, 4 or more.
        delta: Delta of the bound, 0 or more and below 1.
        generator: Source of the runs' randomness.
        confidence: Probability with which the bound holds, at least; above 0 and below 1.

    Raises:
        ValueError: A value is out of its range, or the release returns something other than finite numbers, one for
            each run.
    """
    if trials < 4:
        raise ValueError(f"trials = {trials}: must be 4 or more")
    if not 0 <= delta < 1:
        raise ValueError(f"delta = {delta}: must be 0 or more and below 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: must be above 0 and below 1")
    level = (1 - confidence) / 4
    numbers = {present: _numbers(release, generator, trials, present) for present in (True, False)}
    search = {present: np.sort(every[: trials // 2]) for present, every in numbers.items()}
    test = {present: every[trials // 2 :] for present, every in numbers.items()}
    runs = trials - trials // 2
    best, name = 0.0, ""
    for present, given, other in ((True, "with", "without"), (False, "without", "with")):
        threshold, above = _most_telling(search[present], search[not present], delta, level)
        likely, rare = (np.count_nonzero((test[one] >= threshold) == above) for one in (present, not present))
        epsilon = float(_bound(np.array([likely]), np.array([rare]), runs, delta, level)[0])
        if epsilon > best:
            side = f"{'at least' if above else 'below'} {threshold:.4g}"
            best = epsilon
            name = f"{side}: {likely} of {runs} runs {given} the record, {rare} of {runs} {other} it"
    return Measured(best, delta, confidence, trials, name)


def _numbers(
    release: Release, generator: np.random.Generator, trials: int, present: bool
) -> NDArray[np.float64]:
    numbers = np.asarray(release(generator, trials, present), dtype=np.float64)
    if numbers.shape != (trials,) or not np.isfinite(numbers).all():
        raise ValueError(f"the release must return {trials} finite numbers, and returned {numbers.shape}")
    return numbers


def _most_telling(
    likely: NDArray[np.float64], rare: NDArray[np.float64], delta: float, level: float
) -> tuple[float, bool]:
    """Return the threshold with the largest bound on these (sorted) runs, and whether it holds from there upwards."""
    # Evenly over all numbers, and closely in the tails, where the largest bounds lie.
    every = np.unique(np.concatenate([likely, rare]))
    even = every[np.linspace(0, len(every) - 1, min(len(every), EVENLY)).astype(int)]
    tails = [tail for numbers in (likely, rare) for tail in (numbers[:CLOSELY], numbers[-CLOSELY:])]
    thresholds = np.unique(np.concatenate([even, *tails]))
    runs = len(likely)
    below = np.stack([np.searchsorted(numbers, thresholds) for numbers in (likely, rare)])
    bounds = np.stack([_bound(one, other, runs, delta, level) for one, other in (runs - below, below)])
    side, index = np.unravel_index(int(np.argmax(bounds)), bounds.shape)
    return float(thresholds[index]), bool(side == 0)


def _bound(
    likely: NDArray[np.int64], rare: NDArray[np.int64], runs: int, delta: float, level: float
) -> NDArray[np.float64]:
    """Return ln((P - delta) / Q), with P from below and Q from above by Clopper and Pearson, or 0 where it is less."""
    from scipy.special import betaincinv

    least = np.where(likely == 0, 0.0, betaincinv(np.maximum(likely, 1), runs - likely + 1, level))
    most = np.where(rare == runs, 1.0, betaincinv(rare + 1, np.maximum(runs - rare, 1), 1 - level))
    return np.log(np.maximum(least - delta, most) / most)


def lowest_bit(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the exponent of each number's lowest set bit; for zero, one below that of any other number.

    Noise in finite precision has telling low bits (Mironov 2012).

    >>> lowest_bit(np.array([1.0, 0.75, 6.0])).tolist()
    [0.0, -2.0, 1.0]
    """
    mantissas, exponents = np.frexp(values.astype(np.float64))
    whole = (np.abs(mantissas) * 2.0**53).astype(np.int64)
    trailing = np.log2(np.maximum(whole & -whole, 1))
    return np.where(values == 0, -1100.0, exponents - 53 + trailing)


def residues(values: NDArray[Any], step: float, modulus: int) -> NDArray[np.float64]:
    """Return each number as a multiple of a step, modulo a whole number; 2 gives parity.

    >>> residues(np.array([0.5, 1.25, -0.25]), 0.25, 4).tolist()
    [2.0, 1.0, 3.0]
    """
    return np.mod(np.rint(values.astype(np.float64) / step), modulus)
