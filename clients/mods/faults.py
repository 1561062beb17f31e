"""Clients that fail on purpose: dropouts, stragglers, crashes, NaN."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from fedsim.arrays import record_of, values_of
from fedsim.clients.client_runtime import client_index, client_runtime
from fedsim.flower.constants import ErrorCode
from fedsim.privacy.secagg.spec import Stage
from fedsim.records import record_in, records_in
from fedsim.secagg.messages import record_of_stage
from fedsim.sections import FaultsSection
from fedsim.streams import numpy_stream


class Fault(StrEnum):
    """What goes wrong, and what is said of it."""

    NONE = ""
    DROPOUT = "dropped out (faults.dropout)"
    CRASH = "crashed (faults.crash)"
    NAN = "sent NaN (faults.nan)"
    LATE = "came after the deadline (faults.deadline)"


def fault_of(faults: FaultsSection, seed: int, round_: int, client: int) -> Fault:
    """Return the fault of a client in a round.

    One uniform number decides between the faults, so that each has exactly its probability and a client has
    at most one. A straggler's delay is exponential with mean `delay`, so it is late with probability
    `exp(-deadline / delay)`.
    """
    stream = numpy_stream(seed, "faults", round_=round_, client=client)
    bounds = np.cumsum([faults.dropout, faults.crash, faults.nan, faults.straggler])
    which = int(np.searchsorted(bounds, stream.random(), side="right"))
    fault = (Fault.DROPOUT, Fault.CRASH, Fault.NAN, Fault.LATE, Fault.NONE)[which]
    if fault is Fault.LATE and faults.delay is not None and faults.deadline is not None:
        return Fault.LATE if stream.exponential(faults.delay) > faults.deadline else Fault.NONE
    return fault


def stage_of_fault(seed: int, round_: int, client: int) -> Stage:
    """Return the stage of secure aggregation from which on a client's fault keeps it from answering.

    Each is equally likely; one that a round doesn't have stands for the next.
    """
    return list(Stage)[numpy_stream(seed, "fault-stages", round_=round_, client=client).integers(len(Stage))]


def faults_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let a client fail to answer where `[faults]` says so; the time that passes is virtual, nobody sleeps.

    With secure aggregation it fails at one of the stages, and at those that follow.

    Raises:
        RuntimeError: The client crashes.
    """
    fault = _fault(message, context)
    if fault in (Fault.DROPOUT, Fault.LATE):
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, fault.value), reply_to=message)
    if fault is Fault.CRASH:
        raise RuntimeError(fault.value)
    return call_next(message, context)


def nan_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let a client train and return NaN where `[faults]` says so."""
    fault = _fault(message, context)
    reply = call_next(message, context)
    if fault is Fault.NAN:
        _spoil(reply)
    return reply


def _fault(message: Message, context: Context) -> Fault:
    """Return what goes wrong with a train message."""
    experiment = client_runtime(context).experiment
    if not experiment.faults.active:
        return Fault.NONE
    client, seed = client_index(context), experiment.seed
    asked = record_of_stage(message)
    if asked is None:
        round_ = int(record_in(message.content, ConfigRecord, "config")["server-round"])  # type: ignore[arg-type]
        return fault_of(experiment.faults, seed, round_, client)
    round_, stage, _ = asked
    stages = list(Stage)
    if stages.index(stage) < stages.index(stage_of_fault(seed, round_, client)):
        return Fault.NONE
    return fault_of(experiment.faults, seed, round_, client)


def _spoil(reply: Message) -> None:
    """Put NaN for every number with a fraction that a reply sends."""
    for name, record in records_in(reply.content, ArrayRecord).items():
        arrays = {key: values_of(array) for key, array in record.items()}
        reply.content[name] = record_of(
            {
                key: np.full_like(values, np.nan) if values.dtype.kind == "f" else values
                for key, values in arrays.items()
            }
        )
