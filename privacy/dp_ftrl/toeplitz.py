"""Lower-triangular Toeplitz matrices by their first column: square root, inverse, sensitivity and error.

DP-FTRL with correlated noise releases `x_t + (C^-1 z)_t` in round t = 1..n, where x_t is the sum of the cohort's
clipped updates, z is Gaussian and C is the strategy matrix: post-processing of one release of C x + z. Its privacy
depends on the sensitivity of C x. Its error is the noise on prefix sums of x, since a model is a prefix sum of its
updates: A C^-1 z, with A the lower-triangular matrix of ones.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.cohorts.rule import Participation

Column = NDArray[np.float64]  # the first column of a Toeplitz matrix, `(rows,)`


class Objective(StrEnum):
    """Error that a strategy minimises."""

    RMS = "rms"  # root mean square over all prefix sums
    MAX = "max"  # of the last prefix sum, which has the most noise


def square_root(rows: int) -> Column:
    """Return the first column of the square root of A, `(rows,)`.

    C = B = A^(1/2) is within a constant of the best error of any factorisation (Fichtenberger, Henzinger, Upadhyay
    2023, "Constant matters", arXiv 2202.11205).

    >>> square_root(6).tolist()
    [1.0, 0.5, 0.375, 0.3125, 0.2734375, 0.24609375]
    """
    k = np.arange(1, rows)
    return np.cumprod(np.concatenate([[1.0], (2 * k - 1) / (2 * k)]))


def padded(column: Column, rows: int) -> Column:
    """Return a column cut to, or padded with zeros to, a number of rows."""
    return np.concatenate([column[:rows], np.zeros(max(rows - len(column), 0))])


def divided(column: Column, by: Column) -> Column:
    """Return the column of the product of one matrix and another's inverse (forward substitution), as long as `column`.

    The other's column `by` may have any length; its first entry isn't 0.
    """
    from scipy.signal import lfilter

    result: Column = lfilter([1.0], by[: len(column)], column)
    return result


def overlap(column: Column, participation: Participation) -> Column:
    """Return C x, `(rounds,)`, for a client with updates of 1 in rounds 1, 1 + b, ..., 1 + (k - 1) b."""
    total = column.copy()
    for turn in range(1, participation.participations):
        start = turn * participation.separation
        total[start:] += column[: len(column) - start]
    return total


def sensitivity(column: Column, participation: Participation) -> float:
    """Return the L2 sensitivity of C x to one client with clip norm 1: to its updates becoming zero.

    Unit: a client with all its participations. Neighbouring relation: zero-out.

    It is the norm of the sum of the columns of C where the client takes part, maximal over the patterns (Choquette-Choo
    et al. 2023, arXiv 2306.08153). The pattern that starts first and keeps the least separation is a maximum

    - if no entry is negative or above the one before (Kalinin, Lampert 2024, arXiv 2405.13763, Theorem 2);
    - or if there are no more bands than the separation, as columns then don't overlap (2306.08153);
    - or for one participation, as a later column is a shorter piece of the first.

    Args:
        column: Of C, `(bands,)`; entries that are not there are zero.
        participation: The pattern.

    Raises:
        ValueError: None of these holds: no theorem gives the worst pattern.
    """
    column = padded(column, participation.rounds)
    bands = int(np.flatnonzero(column)[-1]) + 1
    falls = column[-1] >= 0 and np.all(np.diff(column) <= 0)
    if participation.participations > 1 and bands > participation.separation and not falls:
        raise ValueError(
            f"{bands} bands, {participation.participations} participations {participation.separation} rounds apart: "
            "columns overlap, and there is no theorem on the worst pattern unless entries fall and aren't negative"
        )
    return float(np.linalg.norm(overlap(column, participation)))


def weights(rows: int, objective: Objective) -> Column:
    """Return the fraction of the prefix sums that contain each entry of the column of A C^-1, `(rows,)`."""
    if objective is Objective.MAX:
        return np.ones(rows)
    return np.arange(rows, 0, -1) / rows


def error(inverse: Column, objective: Objective) -> float:
    """Return the standard deviation of the noise on prefix sums of x, for the column of C^-1 and standard normal z."""
    return float(np.sqrt(np.sum(weights(len(inverse), objective) * np.cumsum(inverse) ** 2)))
