"""A federation's state after a whole round, for the run directory's checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Protocol, runtime_checkable

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from fedsim.arrays import record_of
from fedsim.errors import RunFailed
from fedsim.results import RunDirectory
from server.rounds import Federation, Stopping
from server.strategies import load_strategy_state, strategy_state, why_not_kept
from server.strategies.state import arrays_as_tree


@runtime_checkable
class KeepsStates(Protocol):
    """A Grid that holds the clients' states, as fedsim's engines do; elsewhere they are with the nodes."""

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Return the state of each client that may have changed it since the last call."""

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Give clients the states that they had."""


def why_not_resumable(federation: Federation) -> str | None:
    """Return why no checkpoint of a federation can be made, None if one can."""
    if not isinstance(federation.grid, KeepsStates):
        return "the clients' states are with Flower's nodes, out of fedsim's reach"
    return why_not_kept(federation.strategy, federation.experiment.server.strategy_entry)


def write_snapshot(federation: Federation, directory: RunDirectory) -> None:
    """Write the checkpoint of the round that has just ended.

    Raises:
        RunFailed: The strategy's state holds what can't be kept.
    """
    grid, entry = _keeper(federation), federation.experiment.server.strategy_entry
    state = {
        "model": arrays_as_tree(federation.arrays),
        "strategy": strategy_state(federation.strategy, entry),
        "stopping": asdict(federation.stopping),
    }
    clients = {
        client: recorddict_to_proto(record).SerializeToString()
        for client, record in grid.changed_states().items()
    }
    try:
        directory.write_checkpoint(federation.done, federation.over, state, clients)
    except ValueError as error:
        raise RunFailed(f"round {federation.done}: checkpoint: {error}") from error


def restore_snapshot(federation: Federation, directory: RunDirectory) -> None:
    """Put a federation that was built anew where the directory's run stood; at its beginning if it has no checkpoint."""
    checkpoint = directory.resumed_from
    if checkpoint is None:
        return
    grid, entry = _keeper(federation), federation.experiment.server.strategy_entry
    federation.done, federation.over = checkpoint.round, checkpoint.over
    federation.arrays = record_of(checkpoint.state["model"])
    federation.stopping = Stopping(**checkpoint.state["stopping"])
    load_strategy_state(federation.strategy, entry, checkpoint.state["strategy"])
    grid.restore_states(
        {
            client: recorddict_from_proto(RecordDictProto.FromString(state))
            for client, state in directory.client_states.items()
        }
    )


def _keeper(federation: Federation) -> KeepsStates:
    if not isinstance(federation.grid, KeepsStates):
        raise TypeError(f"{type(federation.grid).__name__} keeps no states: `why_not_resumable` says so")
    return federation.grid
