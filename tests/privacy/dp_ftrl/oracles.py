"""Slow references: explicit matrices, and every participation pattern."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.cohorts.rule import Participation

Matrix = NDArray[np.float64]


def dense(column: Matrix) -> Matrix:
    rows = len(column)
    return np.array([[column[i - j] if i >= j else 0.0 for j in range(rows)] for i in range(rows)])


def patterns(participation: Participation) -> Iterator[tuple[int, ...]]:
    """Yield all sets of rounds (from 0) in which one client may take part."""
    most = participation.rounds if participation.most is None else participation.most
    for count in range(min(most, participation.rounds) + 1):
        for rounds in combinations(range(participation.rounds), count):
            if all(b - a >= participation.separation for a, b in pairwise(rounds)):
                yield rounds


def worst_norm(matrix: Matrix, participation: Participation) -> float:
    """Return the largest norm of a sum of columns, over all patterns."""
    members = np.array([[r in pattern for r in range(len(matrix.T))] for pattern in patterns(participation)])
    return float(np.linalg.norm(matrix @ members.T, axis=0).max())
