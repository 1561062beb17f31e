"""A user's own transform of updates: one file outside fedsim, which an experiment file names.

[[transforms]]
name = "tests.toys.own_transform:Signs"
blocks = 4
"""

import numpy as np


class Signs:
    """Sends signs, scaled by the mean magnitude of a block: scaled sign compression (Karimireddy et al. 2019)."""

    def __init__(self, blocks: int = 1) -> None:
        if blocks < 1:
            raise ValueError(f"blocks = {blocks}: must be at least 1")
        self.blocks = blocks

    def apply(self, update: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        for block in np.array_split(update, self.blocks):  # views
            if block.size:
                block[:] = np.abs(block).mean() * np.sign(block)
        return update


class Blurred:
    """Adds a little noise."""

    def apply(self, update: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        return update + (1e-3 * draws.standard_normal(update.size)).astype(update.dtype)


class Wrong:
    """Returns what it is told to."""

    def __init__(self, what: str) -> None:
        self.what = what

    def apply(self, update: np.ndarray, draws: np.random.Generator) -> object:
        wrong = {"dtype": update.astype("int32"), "shape": update[1:], "none": None}
        if self.what == "nan":
            return np.full_like(update, np.nan)
        return wrong[self.what]
