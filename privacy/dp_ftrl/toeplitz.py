"""Lower-triangular Toeplitz matrices by their first column: sensitivity, error, and those with the least error.

DP-FTRL with correlated noise releases `x_t + (C^-1 z)_t` in round t = 1..n, where x_t is the sum of the cohort's
clipped updates, z is Gaussian and C is the strategy matrix: post-processing of one release of C x + z. Its privacy
depends on the sensitivity of C x. Its error is the noise on prefix sums of x, since a model is a prefix sum of its
updates: A C^-1 z, with A the lower-triangular matrix of ones.

The sensitivity is computed from the result of a search, so a worse optimum costs accuracy, never privacy. A search has
no randomness; on other processors its last digits may differ.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.cohorts.rule import Participation

Vector = NDArray[np.float64]
Column = Vector  # the first column of a Toeplitz matrix, `(rows,)`
LEAST, MOST = -12.0, 12.0  # logits of the ratios between gaps; beyond, two decays are equal in float64
IMAGINARY = 1e-30  # complex step of a derivative: a small one loses no digits


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


def _minimum(
    loss: Any, start: Vector, bounds: list[tuple[float | None, float | None]]
) -> tuple[float, Vector]:
    from scipy.optimize import minimize

    options = {"maxiter": 200, "ftol": 1e-10, "gtol": 1e-7, "maxcor": 20}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return float(found.fun), found.x


def best_bands(participation: Participation, count: int, objective: Objective) -> tuple[float, ...]:
    """Return the coefficients of the best banded Toeplitz matrix, the first 1.

    The gradient of the error follows from C b = 1 (a column of ones), b being the column of A C^-1: a change d of C
    changes b by -C^-1 d b (the search is that of McKenna 2024, arXiv 2405.15913). There are at most as many bands
    as the separation, unless there is one participation.
    """
    rounds = participation.rounds
    ones = np.ones(rounds)
    starts = np.arange(participation.participations) * participation.separation
    # How often each entry is used.
    used = np.array([np.sum(starts + row < rounds) for row in range(count)], dtype=float)
    part = weights(rounds, objective)

    def loss(free: Vector) -> tuple[float, Vector]:
        column = np.concatenate([[1.0], free])
        with np.errstate(over="ignore", invalid="ignore"):
            sums = divided(ones, column)
            adjoint = divided((part * sums)[::-1], column)[::-1]
            squares, errors = np.sum(used * column**2), np.sum(part * sums**2)
            slopes = np.array([adjoint[band:] @ sums[: rounds - band] for band in range(1, count)])
            return float(np.log(squares * errors)), 2 * used[1:] * free / squares - 2 * slopes / errors

    if count == 1:
        return (1.0,)
    return (1.0, *_minimum(loss, square_root(count)[1:], [(None, None)] * (count - 1))[1].tolist())


def best_buffers(
    participation: Participation, count: int, objective: Objective
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return decays and scales of the best buffered linear Toeplitz matrix found.

    As generating functions, C is prod(1 - hat_j x) / prod(1 - theta_j x), and its inverse of the same kind, with
    decays hat (McMahan, Xu, Zhang 2024, arXiv 2408.08868). Here 1 > theta_1 > hat_1 > theta_2 > ... > hat_d > 0, so
    that all scales are positive, and add up to the length of the pieces (hat_j, theta_j), hence to less than 1. They
    are searched by the ratios of their distances from 1, from several geometric series of such distances.
    """
    rounds = participation.rounds
    part = weights(rounds, objective)

    def loss(free: Vector) -> tuple[float, Vector]:
        (decays, scales, hats, hat_scales), jacobian = _decays(free), _jacobian(free)
        column, column_slopes = _column(decays, scales, rounds)
        inverse, inverse_slopes = _column(hats, hat_scales, rounds)
        moved, sums = overlap(column, participation), np.cumsum(inverse)
        squares, errors = np.sum(moved**2), np.sum(part * sums**2)
        to_column = 2 / squares * overlap(moved[::-1], participation)[::-1]
        to_inverse = 2 / errors * np.cumsum((part * sums)[::-1])[::-1]
        slopes: Vector = np.concatenate([column_slopes @ to_column[1:], inverse_slopes @ to_inverse[1:]])
        return float(np.log(squares * errors)), slopes @ jacobian

    found = [
        _minimum(loss, _start(least, count), [(LEAST, MOST)] * (2 * count))
        for least in sorted({1 / (rounds + 1), 1 / (participation.separation + 1), 0.1})
    ]
    decays, scales, _, _ = _decays(min(found, key=lambda each: each[0])[1])
    return tuple(decays.tolist()), tuple(np.maximum(scales, 0).tolist())


def _start(least: float, count: int) -> Vector:
    """Return the logits of distances from 1 in a geometric series, from `least` to 0.8."""
    logs = np.append(np.linspace(np.log(min(least, 0.5)), np.log(0.8), 2 * count), 0.0)
    ratios = np.exp(-np.diff(logs))
    logits: Vector = np.log(ratios / (1 - ratios))
    return logits


def _decays(free: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return decays and scales of C, then of its inverse, each `(..., count)`; complex where `free` is."""
    # Distances from 1, the least first.
    gaps = np.cumprod(1 / (1 + np.exp(-free[..., ::-1])), axis=-1)[..., ::-1]
    own, other = gaps[..., 0::2], gaps[..., 1::2]
    return (1 - own, _scales(own, other), 1 - other, _scales(other, own))


def _scales(own: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return s for which prod(1 - other_j x) / prod(1 - own_j x) is 1 + sum(s_j x / (1 - own_j x)).

    Both are given by their distances from 1, `(..., count)`.
    """
    apart = own[..., None, :] - own[..., :, None] + np.eye(own.shape[-1])
    scales: NDArray[Any] = np.prod((other[..., None, :] - own[..., :, None]) / apart, axis=-1)
    return scales


def _jacobian(free: Vector) -> Vector:
    """Return the derivatives of what `_decays` returns, `(4 * count, 2 * count)` (Squire, Trapp 1998)."""
    steps = free + 1j * IMAGINARY * np.eye(len(free))
    jacobian: Vector = np.concatenate(_decays(steps), axis=-1).imag.T / IMAGINARY
    return jacobian


def _column(decays: Vector, scales: Vector, rows: int) -> tuple[Column, Vector]:
    """Return the column, and the derivatives of its rows but the first to decays and scales, `(2 * count, rows - 1)`."""
    exponents = np.arange(rows - 1)
    powers = np.exp(exponents * np.log(decays)[:, None])
    column = np.concatenate([[1.0], np.sum(scales[:, None] * powers, axis=0)])
    return column, np.concatenate([(scales / decays)[:, None] * exponents * powers, powers])
