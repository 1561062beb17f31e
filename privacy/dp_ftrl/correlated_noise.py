"""Correlated noise, one row a round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.dp_ftrl.strategies import Strategy

PIECE = 1 << 14  # numbers processed at a time, so that they stay in the cache: 128 KiB


class Noise:
    """The rows of C^-1 z for standard normal z, in order, each once.

    A round's noise is the row times the noise multiplier, the sensitivity and the clip norm, which are the same in
    all rounds. All of it is float64: a row's rounding error carries over to all later rows, and must stay negligible
    in their sums.

    The state is secret: it holds a part of the noise of later rounds, which could be subtracted.

    Args:
        strategy: C.
        size: Size of a row: the number of parameters.
        rows: Number of rows: the rounds.
        state: State of a noise with this strategy, size and number of rows, to resume; None: from the first row.

    Raises:
        ValueError: The state belongs to another noise.
    """

    def __init__(
        self, strategy: Strategy, size: int, rows: int, state: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        self._strategy = strategy
        self._rows = rows
        self._row = 0
        self._memory = np.zeros((strategy.vectors, size))
        if state is not None:
            self._resume(state)

    def _resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        row, rows = (int(number) for number in state["rows"])
        memory = state["memory"]
        if not np.array_equal(state["parameters"], self._strategy.parameters):
            raise ValueError("noise state: it belongs to another strategy")
        if memory.shape != self._memory.shape or memory.dtype != np.float64:
            raise ValueError(
                f"noise state: {memory.dtype} of shape {memory.shape}, where float64 of {self._memory.shape} is needed"
            )
        if rows != self._rows or not 0 <= row <= rows:
            raise ValueError(f"noise state: after row {row} of {rows}, where {self._rows} rows are planned")
        self._row = row
        self._memory = memory.copy()

    def next(self, normals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the next row, `(size,)`, float64.

        Args:
            normals: Independent standard normals, float64, `(size,)`; left unchanged, and never to be used again.

        Raises:
            ValueError: All planned rows have been made, or the normals have another shape or type.
        """
        if self._row == self._rows:
            raise ValueError(f"row {self._row + 1}: noise, and its sensitivity, are planned for {self._rows}")
        size = self._memory.shape[1]
        if normals.shape != (size,) or normals.dtype != np.float64:
            raise ValueError(
                f"normals: {normals.dtype} of shape {normals.shape}, where float64 of ({size},) is needed"
            )
        noise = normals.copy()
        for start in range(0, size, PIECE):
            piece = slice(start, start + PIECE)
            self._strategy.step(self._row, noise[piece], self._memory[:, piece])
        self._row += 1
        return noise

    @property
    def row(self) -> int:
        """Number of rows made."""
        return self._row

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the state: `rows` (made, planned), `parameters` and `memory`."""
        return {
            "rows": np.array([self._row, self._rows], dtype=np.int64),
            "parameters": self._strategy.parameters,
            "memory": self._memory.copy(),
        }
