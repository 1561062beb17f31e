"""Strategies for the tests, as a user might write them."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg

from fedsim.results.checkpoint import Tree


class Averaging(FedAvg):
    """Return the mean of this round's model and the mean of all former ones: a state that matters."""

    def __init__(self, count: int = 0) -> None:
        super().__init__()
        self.count = count
        self.sums: dict[str, Any] = {}

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.count += 1
        for name, array in arrays.items():  # type: ignore[union-attr]
            self.sums[name] = self.sums.get(name, 0) + array.numpy().astype(np.float64)
        mean = {name: Array((total / self.count).astype(np.float32)) for name, total in self.sums.items()}
        return ArrayRecord(mean), metrics


class Kept(Averaging):
    """One that gives and takes its state."""

    def state_dict(self) -> Tree:
        return {"count": self.count, "inner": {"sums": self.sums}}

    def load_state_dict(self, state: Tree) -> None:
        self.count, self.sums = state["count"], state["inner"]["sums"]


class HalfKept(Averaging):
    """One that gives its state and can't take it."""

    def state_dict(self) -> Tree:
        return {"count": self.count}


class Unkeepable(Kept):
    """One that gives what can't be kept, from the second round on."""

    def state_dict(self) -> Tree:
        return {"count": {self.count} if self.count > 1 else 1}
