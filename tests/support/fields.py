"""An algorithm's fields at a run's server and clients after its last round, from its checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from fedsim.flower.records import decode_records
from fedsim.results.checkpoint import ClientStates, Tree, read_checkpoint

Values = dict[str, np.ndarray]


def server_state(run: Path) -> Any:
    """Return the values of the fields, and the last round whose sum held each client's changes; nothing without fields."""
    found = read_checkpoint(run)
    assert found is not None
    state: Tree = found.state.get("fields", {"values": {}, "in-sum": {}})
    return state


def client_values(run: Path, field: str, clients: int) -> list[Values]:
    """Return each client's own value of a field, once what is pending is settled as the server's messages would have it."""
    found = read_checkpoint(run)
    assert found is not None
    states = {c: decode_records(s) for c, s in ClientStates(run).load(found.round).items()}
    confirmed = server_state(run)["in-sum"]
    zeros = {name: np.zeros_like(array) for name, array in server_state(run)["values"][field].items()}
    values = []
    for client in range(clients):
        state = states.get(client, RecordDict())
        value = _arrays(state, f"kept-{field}", zeros)
        pending = state.get("pending")
        if pending is not None and pending["round"] == confirmed.get(str(client), 0):  # type: ignore[call-overload]
            change = _arrays(state, f"pending-{field}", zeros)
            value = {name: value[name] + change[name] for name in value}
        values.append(value)
    return values


def client_states(run: Path) -> dict[int, bytes]:
    """Return all that each client keeps, as bytes."""
    found = read_checkpoint(run)
    assert found is not None
    return ClientStates(run).load(found.round)


def mean(values: list[Values]) -> Values:
    """Return the mean of arrays, by name, in float64."""
    return {name: np.mean([v[name] for v in values], axis=0, dtype=np.float64) for name in values[0]}


def distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Return the largest difference of two coordinates."""
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def _arrays(state: RecordDict, name: str, otherwise: Values) -> Values:
    record = state.get(name)
    return {key: a.numpy() for key, a in record.items()} if isinstance(record, ArrayRecord) else otherwise
