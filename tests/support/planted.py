"""Records clients' updates as they are made, and searches for them in what others receive."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord

import fedsim.clients.app
import fedsim.clients.mods.secagg
from fedsim.arrays import values_of
from fedsim.privacy.secagg.encoding import Encoding


def planted(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return what clients' apps return and what they encode, filled while they run."""
    secrets: list[np.ndarray] = []
    difference, encode, load = (
        fedsim.clients.mods.secagg.difference,
        Encoding.encode,
        fedsim.clients.app.train,
    )

    def differing(trained: ArrayRecord, received: ArrayRecord) -> np.ndarray:
        update = difference(trained, received)
        secrets.extend([*(np.array(values_of(a)).ravel() for a in trained.values()), update.copy()])
        return update

    def encoding(self: Encoding, *args: Any) -> np.ndarray:
        vector = encode(self, *args)
        packed = self.ring.pack(vector)
        secrets.extend([vector.copy(), np.frombuffer(packed, np.uint8)])
        return vector

    def training(model: Any, *args: Any) -> Any:  # also without secure aggregation
        result = load(model, *args)
        secrets.extend(t.detach().numpy().copy().ravel() for t in model.state_dict().values())
        return result

    monkeypatch.setattr("fedsim.clients.mods.secagg.difference", differing)
    monkeypatch.setattr(Encoding, "encode", encoding)
    monkeypatch.setattr("fedsim.clients.app.train", training)
    return secrets


def found(secrets: list[np.ndarray], trace: bytes) -> int:
    """Return how many of the secrets' pieces of 16 bytes, of some variety, are in a trace."""
    windows = {trace[i : i + 16] for i in range(len(trace) - 15)}
    pieces = set()
    for secret in secrets:
        data = secret.tobytes()
        pieces |= {data[i : i + 16] for i in range(0, len(data) - 15, 16)}
    return sum(1 for piece in pieces if len(set(piece)) > 8 and piece in windows)
