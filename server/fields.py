"""An algorithm's fields on the server: what every request holds of them, and what a round makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.algorithms.protocol import Algorithm, Fields
from fedsim.arrays import record_of
from fedsim.layout import Layout
from fedsim.messages import OWN
from fedsim.server.grids.cohort import CohortGrid


class ServerFields:
    """The fields of a run, and the last round whose sum held each client's changes.

    Args:
        algorithm: Makes of a round's changes the next values.
        layout: Of an update.
        values: Before the first round.

    Attributes:
        values: As they are now, by field and name.
        in_sum: The last round whose sum held a client's changes, by client; those that were in none are missing.
    """

    def __init__(self, algorithm: Algorithm, layout: Layout, values: Fields) -> None:
        self.values = values
        self.in_sum: dict[int, int] = {}
        self._algorithm = algorithm
        self._layout = layout
        self._confirms = any(field.kept for field in algorithm.fields.values())

    def __bool__(self) -> bool:
        """Say whether the algorithm has any."""
        return bool(self._layout.fields)

    def put_in(self, requests: Sequence[Message], grid: CohortGrid) -> None:
        """Add the fields to train messages, and tell each client which of its changes was in a sum."""
        if not self:
            return
        fields = {name: record_of(arrays) for name, arrays in self.values.items()}
        for request in requests:
            content = RecordDict({**request.content, **fields})
            if self._confirms:
                client = grid.client(request.metadata.dst_node_id)
                content[OWN] = ConfigRecord({"in-sum": self.in_sum.get(client, 0)})
            request.content = content

    def update(self, round_: int, change: Fields, clients: Sequence[int], share: float) -> None:
        """Make the next values.

        Args:
            round_: From 1.
            change: Mean of the changes, float64.
            clients: Whose changes it holds.
            share: Of all clients, how many the mean is over.
        """
        if self and change:
            self.values = self._layout.typed(self._algorithm.update(self.values, change, share))
            self.in_sum.update(dict.fromkeys(clients, round_))

    def state(self) -> dict[str, Any]:
        """Return what the next rounds depend on, as a tree for the checkpoint."""
        return {
            "values": {name: dict(arrays) for name, arrays in self.values.items()},
            "in-sum": {str(client): round_ for client, round_ in self.in_sum.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.values = state["values"]
        self.in_sum = {int(client): round_ for client, round_ in state["in-sum"].items()}
