"""The global model's state between rounds: what strategies see of it, and what they don't.

A strategy's optimiser acts on parameters. Statistics, such as batch norm's running means, are averaged: a step of FedAdam
would make a running variance negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message

from fedsim.arrays import Values, arrays_in, record_of
from fedsim.layout import without
from fedsim.messages import ARRAYS, CONSTANTS
from fedsim.models.state import ModelState
from fedsim.records import record_in
from fedsim.server.aggregation.replies import metrics_of


@dataclass(frozen=True)
class ServerModel:
    """Separates parameters and statistics of a model.

    Attributes:
        state: What of the model training may change; None: all arrays are parameters.
        noised: Whether the mechanism noises whole updates.
    """

    state: ModelState | None = None
    noised: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the statistics."""
        return () if self.state is None else self.state.statistics

    def instructions(self) -> dict[str, str]:
        """Return keys of a train message: a hash of the constants, if there are any, for they are not sent."""
        return {CONSTANTS: self.state.constants_sha256} if self.state and self.state.constants else {}

    def parameters(self, model: ArrayRecord) -> ArrayRecord:
        """Return a model's parameters."""
        return without(model, self.names) if self.names else model

    def add_to(self, requests: Sequence[Message], model: ArrayRecord) -> None:
        """Add a model's statistics to requests that hold its parameters, or others in their place."""
        if not self.names:
            return
        for request in requests:
            sent = request.content.get(ARRAYS)
            if isinstance(sent, ArrayRecord):
                request.content[ARRAYS] = record_of(arrays_in(model) | arrays_in(sent))

    def take_from(self, replies: Sequence[Message]) -> dict[str, Values]:
        """Take the statistics out of replies, and return their means, weighted as the replies are; integers rounded."""
        if not self.names:
            return {}
        weights: list[float] = []
        taken: list[dict[str, Values]] = []
        for reply in replies:
            arrays = record_in(reply.content, ArrayRecord, ARRAYS)
            taken.append({name: array for name, array in arrays_in(arrays).items() if name in self.names})
            weights.append(float(metrics_of(reply)["num-examples"]))  # type: ignore[arg-type]
            reply.content[ARRAYS] = without(arrays, self.names)
        return {name: _mean([arrays[name] for arrays in taken], weights) for name in self.names if taken}

    def after(self, model: ArrayRecord, changed: Mapping[str, Values]) -> ArrayRecord:
        """Return the next model: the last one with its changed arrays."""
        arrays = arrays_in(model) | dict(changed)
        return record_of(arrays if self.state is None else self.state.repaired(arrays, noised=self.noised))

    def complete(self, model: ArrayRecord) -> dict[str, Values]:
        """Return the arrays of the state dict: the model's, constants, and each name of what is tied."""
        arrays = arrays_in(model)
        return arrays if self.state is None else self.state.complete(arrays)


def _mean(arrays: Sequence[Values], weights: Sequence[float]) -> Values:
    if len(arrays) == 1:
        return arrays[0]
    mean: Any = np.average(np.stack(arrays).astype(np.float64), axis=0, weights=weights)
    return np.asarray(np.rint(mean) if arrays[0].dtype.kind in "biu" else mean).astype(arrays[0].dtype)
