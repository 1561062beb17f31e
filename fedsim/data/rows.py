"""A data set for partitioners that yields row numbers instead of data sets.

flwr-datasets' partitioners make a `datasets.Dataset` of each client's rows, which takes a millisecond or two a
client: minutes for 100,000 of them. Only the rows' numbers are needed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray


class Rows(Dataset):  # type: ignore[misc]  # datasets has no types
    """A `datasets.Dataset` with a `select`, and so a `shard`, that returns row numbers."""

    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[Any]], numbers: NDArray[np.int64]) -> Rows:
        """Return rows with these columns and numbers, all of one length."""
        rows: Rows = cls.from_dict({"number": numbers, **columns})  # datasets wants a column at least
        rows.numbers = numbers
        return rows

    def select(self, indices: Sequence[int], *unused: Any, **unused_too: Any) -> NDArray[np.int64]:
        """Return the numbers of the rows at these indices; other arguments are ignored."""
        if isinstance(indices, range):
            return self.numbers[indices.start : indices.stop : indices.step]
        return self.numbers[np.asarray(indices, dtype=np.int64)]

    def sort(self, column: str) -> Rows:
        """Return the rows in ascending order of a column (stable)."""
        order = np.argsort(np.asarray(self[column]), kind="stable")
        columns = {name: np.asarray(self[name])[order] for name in self.column_names if name != "number"}
        return Rows.of(columns, self.numbers[order])
