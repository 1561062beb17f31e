"""Strategy matrices C: the inverse is applied to noise row by row, with few past rows in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.dp_ftrl.toeplitz import Column, padded

Vectors = NDArray[np.float64]


class Strategy(Protocol):
    """A lower-triangular Toeplitz matrix C with ones on its diagonal."""

    @property
    def vectors(self) -> int:
        """Number of vectors of the noise's size kept between rows."""

    @property
    def parameters(self) -> NDArray[np.float64]:
        """Parameters of the matrix, `(parameters,)`; they identify a strategy within its class."""

    def column(self, rows: int) -> Column:
        """Return the first column of C, `(rows,)`."""

    def step(self, row: int, noise: Vectors, memory: Vectors) -> None:
        """Turn row `row` (from 0) of z into that of C^-1 z, in place, and update the memory.

        Args:
            row: The next row; earlier ones have been made.
            noise: `(size,)`; in: standard normals, out: correlated noise.
            memory: `(vectors, size)`; zeros before row 0.
        """


@dataclass(frozen=True)
class Banded:
    """Banded C: each row of noise is z minus earlier rows, weighted by the coefficients.

    Attributes:
        coefficients: The first column of C, 1 at the top; zero below.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the coefficients.

        Raises:
            ValueError: The first isn't 1, or one isn't finite.
        """
        if not self.coefficients or self.coefficients[0] != 1:
            raise ValueError("coefficients: the first must be 1; scale the noise instead")
        if not all(map(math.isfinite, self.coefficients)):
            raise ValueError("coefficients: must be finite")

    @property
    def vectors(self) -> int:
        """Rows of noise kept: one less than the bands."""
        return len(self.coefficients) - 1

    @property
    def parameters(self) -> NDArray[np.float64]:
        """The coefficients, `(bands,)`."""
        return np.array(self.coefficients)

    def column(self, rows: int) -> Column:
        """Return the first column of C, `(rows,)`."""
        return padded(self.parameters, rows)

    def step(self, row: int, noise: Vectors, memory: Vectors) -> None:
        """Turn a row of z into that of C^-1 z by forward substitution; `memory` is a ring of past rows."""
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
    or above the one before.

    Attributes:
        decays: One a buffer, 0 to 1.
        scales: One a buffer, 0 or more, at most 1 together.

    Raises:
        ValueError: A value is out of its range.
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
        """Buffers."""
        return len(self.decays)

    @property
    def parameters(self) -> NDArray[np.float64]:
        """Decays, then scales, `(2 * buffers,)`."""
        return np.array([*self.decays, *self.scales])

    def column(self, rows: int) -> Column:
        """Return the first column of C, `(rows,)`."""
        powers = np.power(np.array(self.decays)[:, None], np.arange(rows - 1))
        column = np.concatenate([[1.0], np.array(self.scales) @ powers])
        falling: Column = np.minimum.accumulate(column)  # exact except for rounding
        return falling

    def step(self, row: int, noise: Vectors, memory: Vectors) -> None:
        """Turn a row of z into that of C^-1 z (McMahan, Xu, Zhang 2024, arXiv 2408.08868, algorithm 3)."""
        for scale, buffer in zip(self.scales, memory, strict=True):
            noise -= scale * buffer
        for decay, buffer in zip(self.decays, memory, strict=True):
            buffer *= decay
            buffer += noise
