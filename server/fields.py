"""An algorithm's fields on the server: sent with each request, updated after each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.algorithms.protocol import Algorithm, Fields
from fedsim.arrays import record_of
from fedsim.errors import RunFailed
from fedsim.layout import Layout
from fedsim.messages import OWN
from fedsim.server.grids import CohortGrid


class ServerFields:
    """The fields of a run, and the last round with each client's changes in its sum.

    Attributes:
        values: Current values, by field and name.
        in_sum: The last round with a client's changes in its sum, by client; clients without one are missing.
    """

    def __init__(self, algorithm: Algorithm, layout: Layout, values: Fields) -> None:
        self.values = values
        self.in_sum: dict[int, int] = {}
        self._algorithm = algorithm
        self._layout = layout
        self._confirms = any(field.kept for field in algorithm.fields.values())

    def __bool__(self) -> bool:
        """Return whether the algorithm has fields."""
        return bool(self._layout.fields)

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of all fields, and their bytes."""
        arrays = [array for fields in self.values.values() for array in fields.values()]
        return sum(array.size for array in arrays), sum(array.nbytes for array in arrays)

    def add_to(self, requests: Sequence[Message], grid: CohortGrid) -> None:
        """Add the fields to train messages, with the last round that had the client's changes in its sum."""
        if not self:
            return
        fields = {name: record_of(arrays) for name, arrays in self.values.items()}
        for request in requests:
            content = RecordDict({**request.content, **fields})
            if self._confirms:
                client = grid.client(request.metadata.dst_node_id)
                content[OWN] = ConfigRecord({"in-sum": self.in_sum.get(client, 0)})
            request.content = content

    def update(self, round_: int, change: Fields, clients: Sequence[int], share: float) -> str:
        """Compute the next values from the mean `change`, float64, of `clients`, a share of all clients.

        Returns:
            Which of them would not be finite, so that all stay as they are; else an empty string.

        Raises:
            RunFailed: The algorithm raised an error, or returned invalid values.
        """
        if not (self and change):
            return ""
        where = f"round {round_}: algorithm {type(self._algorithm).__name__}: update()"
        try:
            made = self._algorithm.update(self.values, change, share)
            odd = self._layout.mismatch(made, any_dtype=True)
        except Exception as error:
            raise RunFailed(f"{where}: {type(error).__name__}: {error}") from error
        if odd:
            raise RunFailed(f"{where}: {odd}")
        values = self._layout.typed(made)
        for field, arrays in values.items():
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    return f"{name} of the algorithm's field {field!r} is not finite"
        self.values = values
        self.in_sum.update(dict.fromkeys(clients, round_))
        return ""

    def state(self) -> dict[str, Any]:
        """Return the state that the next rounds depend on, as a tree for the checkpoint."""
        return {
            "values": {name: dict(arrays) for name, arrays in self.values.items()},
            "in-sum": {str(client): round_ for client, round_ in self.in_sum.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.values = state["values"]
        self.in_sum = {int(client): round_ for client, round_ in state["in-sum"].items()}
