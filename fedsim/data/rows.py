"""The data set that a partitioner deals: columns to decide by, and row numbers out.

flwr-datasets' partitioners hand a client's rows over as a `datasets.Dataset` of its own, which costs a
millisecond or two a client: minutes for 100,000 of them. All that is wanted here are the rows' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray


class Rows(Dataset):  # type: ignore[misc]  # datasets has no types
    """A `datasets.Dataset` out of which `select`, and so `shard`, choose row numbers and no data set."""

    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[Any]], numbers: NDArray[np.int64]) -> Rows:
        """Return rows with these columns and numbers, all of one length."""
        rows: Rows = cls.from_dict({"number": numbers, **columns})  # datasets wants a column at least
        rows.numbers = numbers
        return rows

    def select(self, indices: Sequence[int], *unused: Any, **unused_too: Any) -> NDArray[np.int64]:
        """Return the numbers of the rows at these places; how a data set would be kept is passed over."""
        if isinstance(indices, range):
            return self.numbers[indices.start : indices.stop : indices.step]
        return self.numbers[np.asarray(indices, dtype=np.int64)]

    def sort(self, column: str) -> Rows:
        """Return the rows in ascending order of a column, equal ones in the order that they have."""
        order = np.argsort(np.asarray(self[column]), kind="stable")
        columns = {name: np.asarray(self[name])[order] for name in self.column_names if name != "number"}
        return Rows.of(columns, self.numbers[order])
