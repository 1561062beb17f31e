"""Correlated noise, one row a round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.dp_ftrl.strategies import Strategy

PIECE = 1 << 14  # numbers that go through all vectors in memory while they are in the cache: 128 KiB


class Noise:
    """The rows of C^-1 z for standard normal z, one after another, each once.

    The noise of a round is the row times the noise multiplier, the sensitivity and the clip norm, which stay the same
    in all rounds. Everything is in float64: what a row's rounding leaves in memory goes on into all later rows,
    and must not be seen in their sums.

    The state is secret: whoever has it can subtract from later rounds the part of their noise that it holds.

    Args:
        strategy: C.
        size: Of a row: the number of parameters.
        rows: How many there are: rounds.
        state: Of a noise with this strategy, size and number of rows, to go on from; None: from the first row.

    Raises:
        ValueError: The state is of something else.
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
            raise ValueError("noise state: it is of another strategy, whose noise can't be gone on with")
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
            normals: Independent standard normals, float64, `(size,)`; left as they are. Never to be used again.

        Raises:
            ValueError: All rows have been made (sensitivity and error are those of so many), or the normals are of
                another shape or type.
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
        """How many rows have been made."""
        return self._row

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of what the next rows depend on: `rows` (made, planned), `parameters` and `memory`."""
        return {
            "rows": np.array([self._row, self._rows], dtype=np.int64),
            "parameters": self._strategy.parameters,
            "memory": self._memory.copy(),
        }
