"""Correlated noise: the inverse of a strategy matrix is applied row by row, one a round, with few past rows in memory.

A strategy is a lower-triangular Toeplitz matrix C with ones on its diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.dp_ftrl.toeplitz import Column, padded

PIECE = 1 << 14  # numbers processed at a time, so that they stay in the cache: 128 KiB

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Banded:
    """Banded C: each row of noise is z minus earlier rows, weighted by the coefficients.

    Attributes:
        coefficients: The first column of C, 1 at the top (else `ValueError` is raised), finite; zero below.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.coefficients or self.coefficients[0] != 1:
            raise ValueError("coefficients: the first must be 1; scale the noise instead")
        if not all(map(math.isfinite, self.coefficients)):
            raise ValueError("coefficients: must be finite")

    @property
    def vectors(self) -> int:
        """Vectors of the noise's size kept between rows: one less than the bands."""
        return len(self.coefficients) - 1

    @property
    def parameters(self) -> NDArray[np.float64]:
        """What identifies C within its class: the coefficients, `(bands,)`."""
        return np.array(self.coefficients)

    def column(self, rows: int) -> Column:
        """Return the first column of C, `(rows,)`."""
        return padded(self.parameters, rows)

    def step(self, row: int, noise: Vectors, memory: Vectors) -> None:
        """Turn a row of z into that of C^-1 z by forward substitution, and update the memory, a ring of past rows.

        Args:
            row: The next row, from 0; earlier ones have been made.
            noise: `(size,)`; in: standard normals, out: correlated noise.
            memory: `(vectors, size)`; zeros before row 0.
        """
        kept = len(memory)
        for age in range(1, min(row, kept) + 1):
            noise -= self.coefficients[age] * memory[(row - age) % kept]
        if kept:
            memory[row % kept] = noise


@dataclass(frozen=True)
class Buffered:
    """A buffered linear Toeplitz matrix (BLT): C's column is 1, then a sum of decaying powers, one for each buffer.

    Entry i >= 1 is `sum_j scales[j] * decays[j] ** (i - 1)` (Dvijotham, McMahan, Pillutla, Steinke, Thakurta 2024,
    arXiv 2404.16706, where decays are theta and scales omega). Within the ranges below no entry is negative
    or above the one before; `ValueError` is raised for others.

    Attributes:
        decays: One a buffer, 0 to 1.
        scales: One a buffer, 0 or more, at most 1 together.
    """

    decays: tuple[float, ...]
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.decays) != len(self.scales):
            raise ValueError(
                f"{len(self.decays)} decays and {len(self.scales)} scales: each buffer needs both"
            )
        if not all(0 <= decay <= 1 for decay in self.decays):
            raise ValueError(f"decays = {self.decays}: must be 0 to 1")
        if not all(scale >= 0 for scale in self.scales) or not sum(self.scales) <= 1:
            raise ValueError(f"scales = {self.scales}: must be 0 or more, and at most 1 together")

    @property
    def vectors(self) -> int:
        """Vectors of the noise's size kept between rows: the buffers."""
        return len(self.decays)

    @property
    def parameters(self) -> NDArray[np.float64]:
        """What identifies C within its class: decays, then scales, `(2 * buffers,)`."""
        return np.array([*self.decays, *self.scales])

    def column(self, rows: int) -> Column:
        """Return the first column of C, `(rows,)`."""
        powers = np.power(np.array(self.decays)[:, None], np.arange(rows - 1))
        column = np.concatenate([[1.0], np.array(self.scales) @ powers])
        falling: Column = np.minimum.accumulate(column)  # exact except for rounding
        return falling

    def step(self, row: int, noise: Vectors, memory: Vectors) -> None:
        """Turn a row of z into that of C^-1 z (McMahan, Xu, Zhang 2024, arXiv 2408.08868, algorithm 3). As `Banded`."""
        for scale, buffer in zip(self.scales, memory, strict=True):
            noise -= scale * buffer
        for decay, buffer in zip(self.decays, memory, strict=True):
            buffer *= decay
            buffer += noise


Strategy = Banded | Buffered


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
        state: Of a noise with the same arguments (else `ValueError`), to resume; None: from the first row.

    Attributes:
        row: Number of rows made.
    """

    def __init__(
        self, strategy: Strategy, size: int, rows: int, state: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        self.row = 0
        self._strategy = strategy
        self._rows = rows
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
        self.row = row
        self._memory = memory.copy()

    def next(self, normals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the next row, `(size,)`, float64.

        Args:
            normals: Independent standard normals, float64, `(size,)`; left unchanged, and never to be used again.

        Raises:
            ValueError: All planned rows have been made, or the normals have another shape or type.
        """
        if self.row == self._rows:
            raise ValueError(f"row {self.row + 1}: noise, and its sensitivity, are planned for {self._rows}")
        size = self._memory.shape[1]
        if normals.shape != (size,) or normals.dtype != np.float64:
            raise ValueError(
                f"normals: {normals.dtype} of shape {normals.shape}, where float64 of ({size},) is needed"
            )
        noise = normals.copy()
        for start in range(0, size, PIECE):
            piece = slice(start, start + PIECE)
            self._strategy.step(self.row, noise[piece], self._memory[:, piece])
        self.row += 1
        return noise

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the state: `rows` (made, planned), `parameters` and `memory`."""
        return {
            "rows": np.array([self.row, self._rows], dtype=np.int64),
            "parameters": self._strategy.parameters,
            "memory": self._memory.copy(),
        }
