"""Checkpoints: a federation's state after a completed round, written and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Protocol, runtime_checkable

from flwr.app import ConfigRecord, RecordDict

from fedsim.arrays import arrays_in, record_of
from fedsim.errors import Refused, RunFailed
from fedsim.flower.records import decode_records, encode_records
from fedsim.messages import LEDGER
from fedsim.privacy.events import Ledger, Noise
from fedsim.results import RunDirectory
from fedsim.results.checkpoint import Checkpoint
from fedsim.secagg.messages import RECORD
from fedsim.sections.privacy import PARTICIPATIONS
from fedsim.server.evaluation import Stopping
from fedsim.server.federation import Federation
from fedsim.server.strategies import load_strategy_state, strategy_state, why_not_kept


@runtime_checkable
class KeepsStates(Protocol):
    """A Grid that holds the clients' states, as fedsim's engines do; elsewhere the nodes hold them."""

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Return the client states that may have changed since the last call."""

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Restore the states of clients."""


def why_not_resumable(federation: Federation) -> str | None:
    """Return why a federation can't be checkpointed, or None."""
    if not isinstance(federation.grid, KeepsStates):
        return "the clients' states are with Flower's nodes, out of fedsim's reach"
    return why_not_kept(federation.strategy, federation.experiment.server.strategy_entry)


def write_checkpoint(federation: Federation, directory: RunDirectory) -> None:
    """Write the checkpoint of the last completed round; `RunFailed` if it can't hold the strategy's state."""
    grid, entry = _stateful_grid(federation), federation.experiment.server.strategy_entry
    state = {
        "model": arrays_in(federation.arrays),
        "strategy": strategy_state(federation.strategy, entry),
        "stopping": asdict(federation.stopping),
        "mechanism": federation.half.state(),
        "cohorts": federation.sampling.state(),
    }
    if federation.fields:
        state["fields"] = federation.fields.state()
    clients = {
        client: encode_records(_without_secrets(record)) for client, record in grid.changed_states().items()
    }
    try:
        directory.write_checkpoint(federation.done, federation.over, state, clients)
    except ValueError as error:
        raise RunFailed(f"round {federation.done}: checkpoint: {error}") from error


def restore_checkpoint(federation: Federation, directory: RunDirectory) -> None:
    """Restore a newly built federation to the state of the directory's run; without a checkpoint, to its beginning."""
    checkpoint = directory.resumed_from
    if directory.ledger is not None:
        federation.account.open(directory.ledger, directory.events)
    if federation.half.key and directory.has_secrets:
        federation.half.key = directory.noise_key()
    if federation.sampling.stateful and directory.has_secrets:
        federation.sampling.noted = directory.cohorts()
        federation.sampling.note = directory.note_cohort
    if checkpoint is not None:
        _restore(federation, checkpoint, directory.client_states)
    federation.released = directory.begun
    if federation.account.noise is Noise.SYSTEM:
        federation.released = max([federation.released, *(event.round for event in directory.events)])
        _count_from_ledger(federation, federation.account.ledger, directory.client_states)
        _check_cohorts_known(federation)


def _without_secrets(state: RecordDict) -> RecordDict:
    """Return a client's state without its unfinished session of secure aggregation."""
    return RecordDict({name: record for name, record in state.items() if name != RECORD})


def _restore(federation: Federation, checkpoint: Checkpoint, client_states: Mapping[int, bytes]) -> None:
    grid, entry = _stateful_grid(federation), federation.experiment.server.strategy_entry
    federation.done, federation.over = checkpoint.round, checkpoint.over
    federation.arrays = record_of(checkpoint.state["model"])
    federation.stopping = Stopping(**checkpoint.state["stopping"])
    load_strategy_state(federation.strategy, entry, checkpoint.state["strategy"])
    if federation.fields:
        federation.fields.restore(checkpoint.state["fields"])
    try:
        federation.half.restore(checkpoint.state["mechanism"])
        federation.sampling.restore(checkpoint.state["cohorts"])
    except ValueError as error:
        raise Refused(f"privacy.{federation.mechanism}: the checkpoint's state: {error}") from None
    grid.restore_states({client: decode_records(state) for client, state in client_states.items()})


def _check_cohorts_known(federation: Federation) -> None:
    """Refuse to resume if an interrupted round's cohort, and so the remaining participations, are unknown."""
    for round_ in range(federation.done + 1, federation.released + 1):
        if federation.sampling.stateful and round_ not in federation.sampling.noted:
            raise Refused(
                f"privacy.{federation.mechanism}: round {round_} has begun, but its cohort was not recorded: "
                "the clients' remaining participations are unknown"
            )


def _count_from_ledger(federation: Federation, ledger: Ledger, client_states: Mapping[int, bytes]) -> None:
    """Set clients' participation counts, and the ledgers that they keep themselves, from the run's ledger."""
    states = {}
    for client, count in ledger.participations().items():
        state = decode_records(client_states.get(client, b""))
        state[PARTICIPATIONS] = ConfigRecord({"rounds": count})
        if federation.aggregator.secure:
            events = [event.dumps() for event in ledger if event.released_by == client]
            state[LEDGER] = ConfigRecord({"events": events})
        states[client] = state
    if states:  # a new run has none, and its grid need not keep states
        _stateful_grid(federation).restore_states(states)


def _stateful_grid(federation: Federation) -> KeepsStates:
    if not isinstance(federation.grid, KeepsStates):
        raise TypeError(f"{type(federation.grid).__name__} keeps no client states; see `why_not_resumable`")
    return federation.grid
