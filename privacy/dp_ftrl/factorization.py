"""A strategy under a participation pattern: its sensitivity and its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.correlated_noise import Banded, Buffered, Noise, Strategy
from fedsim.privacy.dp_ftrl.toeplitz import (
    Column,
    Objective,
    best_bands,
    best_buffers,
    divided,
    error,
    sensitivity,
    square_root,
)
from fedsim.privacy.ranges import check_count

BUFFERS = 3  # of a BLT: within 2 % of the best for thousands of rounds


@dataclass(frozen=True)
class Factorization:
    """DP-FTRL: each round's sum of clipped updates is released with a row of correlated noise.

    Row t of the noise is `noise multiplier * sensitivity * clip norm * (C^-1 z)_t`, with z standard normal. The whole
    training is then one Gaussian mechanism with that noise multiplier, for all cohorts that keep the pattern, and
    although updates depend on earlier releases (Denisov, McMahan, Rush, Smith, Thakurta 2022, arXiv 2202.08312,
    Theorem 2.1).

    Unit: a client with all its participations. Neighbouring relation: zero-out (its updates become zero); removing a
    client would change other clients' cohorts. There is no protection from the server, which sees the sums without
    noise. Sensitive: z, the noise's state, and the sums.

    Attributes:
        name: Name of the strategy.
        strategy: C.
        participation: The pattern that is enforced.
    """

    name: str
    strategy: Strategy
    participation: Participation

    @cached_property
    def column(self) -> Column:
        """The first column of C, `(rounds,)`."""
        return self.strategy.column(self.participation.rounds)

    @cached_property
    def sensitivity(self) -> float:
        """L2 sensitivity of C x to a client with clip norm 1; raises `ValueError` if no theorem covers the pattern."""
        return sensitivity(self.column, self.participation)

    @cached_property
    def once(self) -> float:
        """L2 sensitivity of C x to one participation with clip norm 1: the norm of the first column."""
        return float(np.linalg.norm(self.column))

    def residual(self, objective: Objective) -> float:
        """Return the standard deviation of A C^-1 z on the last prefix sum, or its root mean square over all."""
        one = np.eye(1, self.participation.rounds)[0]
        return error(divided(one, self.column), objective)

    def noise(self, size: int, state: Mapping[str, NDArray[Any]] | None = None) -> Noise:
        """Return the rows of C^-1 z (`Noise`)."""
        return Noise(self.strategy, size, self.participation.rounds, state)


def independent(participation: Participation) -> Factorization:
    """Return independent noise in each round: C = 1."""
    return Factorization("independent", Banded((1.0,)), participation)


def square_root_toeplitz(participation: Participation) -> Factorization:
    """Return the square root of A: best for one participation, up to a constant; keeps all rows in memory."""
    return square_root_banded(participation, participation.rounds)


def square_root_banded(participation: Participation, bands: int) -> Factorization:
    """Return the square root of A, cut to its first bands, 1 or more (Kalinin, Lampert 2024, arXiv 2405.13763).

    As many bands as the separation are best.
    """
    bands = _checked(bands, participation)
    name = "sqrt-toeplitz" if bands == participation.rounds else "banded-sqrt"
    return Factorization(name, Banded(tuple(square_root(bands).tolist())), participation)


def banded(participation: Participation, bands: int, objective: Objective = Objective.RMS) -> Factorization:
    """Return the banded Toeplitz matrix with the least error under the pattern (McKenna 2024, arXiv 2405.15913).

    Raises:
        ValueError: There are more bands than the separation, so that columns would overlap.
    """
    bands = _checked(bands, participation)
    if bands > participation.separation and participation.participations > 1:
        raise ValueError(
            f"bands = {bands}: must be at most the separation, {participation.separation}; columns would overlap"
        )
    return Factorization("banded", Banded(best_bands(participation, bands, objective)), participation)


def buffered(
    participation: Participation, buffers: int = BUFFERS, objective: Objective = Objective.RMS
) -> Factorization:
    """Return the buffered linear Toeplitz matrix with the least error that was found under the pattern (2408.08868).

    There are 1 to 8 buffers, else `ValueError` is raised.
    """
    if not 1 <= buffers <= 8:
        raise ValueError(
            f"buffers = {buffers}: must be 1 to 8; more gain nothing, and their decays can't be told apart"
        )
    decays, scales = best_buffers(participation, buffers, objective)
    return Factorization("blt", Buffered(decays, scales), participation)


def alternatives(
    participation: Participation, bands: int | None = None, buffers: int = BUFFERS
) -> list[Factorization]:
    """Return the available mechanisms for a pattern, independent noise first; by default, as many bands as separation."""
    bands = participation.separation if bands is None else bands
    return [
        independent(participation),
        square_root_toeplitz(participation),
        square_root_banded(participation, bands),
        banded(participation, bands),
        buffered(participation, buffers),
    ]


@lru_cache(maxsize=8)  # optimisation is slow
def factorization_of(
    name: str, participation: Participation, bands: int | None = None, buffers: int | None = None
) -> Factorization:
    """Return the factorization named `banded` (by default as many bands as the separation), `blt` or `sqrt-toeplitz`.

    Raises:
        ValueError: There is no such name, or no theorem covers these values.
    """
    if name == "banded":
        return banded(participation, participation.separation if bands is None else bands)
    if name == "blt":
        return buffered(participation, BUFFERS if buffers is None else buffers)
    if name == "sqrt-toeplitz":
        return square_root_toeplitz(participation)
    raise ValueError(f"mechanism = {name!r}: must be banded, blt or sqrt-toeplitz")


def _checked(bands: int, participation: Participation) -> int:
    check_count("bands", bands)
    return min(bands, participation.rounds)
