"""Injected faults: dropouts, stragglers, crashes, NaN."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from fedsim.arrays import arrays_in, record_of
from fedsim.clients.client_runtime import client_index, client_runtime, server_round
from fedsim.flower.constants import ErrorCode
from fedsim.privacy.secagg.spec import Stage
from fedsim.records import records_in
from fedsim.secagg.messages import record_of_stage
from fedsim.sections import FaultsSection
from fedsim.streams import numpy_stream


class Fault(StrEnum):
    """A fault, with its message."""

    NONE = ""
    DROPOUT = "dropped out (faults.dropout)"
    CRASH = "crashed (faults.crash)"
    NAN = "sent NaN (faults.nan)"
    LATE = "came after the deadline (faults.deadline)"


def fault_of(faults: FaultsSection, seed: int, round_: int, client: int) -> Fault:
    """Return the fault of a client in a round.

    One uniform number selects the fault, so each has exactly its probability and a client has at most one. A
    straggler's delay is exponential with mean `delay`, so it is late with probability `exp(-deadline / delay)`.
    """
    stream = numpy_stream(seed, "faults", round_=round_, client=client)
    bounds = np.cumsum([faults.dropout, faults.crash, faults.nan, faults.straggler])
    which = int(np.searchsorted(bounds, stream.random(), side="right"))
    fault = (Fault.DROPOUT, Fault.CRASH, Fault.NAN, Fault.LATE, Fault.NONE)[which]
    if fault is Fault.LATE and faults.delay is not None and faults.deadline is not None:
        return Fault.LATE if stream.exponential(faults.delay) > faults.deadline else Fault.NONE
    return fault


def stage_of_fault(seed: int, round_: int, client: int) -> Stage:
    """Return the stage of secure aggregation from which on a faulty client doesn't answer.

    All stages are equally likely; a stage that the round doesn't have means the next one.
    """
    return list(Stage)[numpy_stream(seed, "fault-stages", round_=round_, client=client).integers(len(Stage))]


def faults_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Make a client drop out, come late or crash (`RuntimeError`) as in `[faults]`; delays are in virtual time.

    With secure aggregation it fails from a random stage on.
    """
    fault = _fault(message, context)
    if fault in (Fault.DROPOUT, Fault.LATE):
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, fault.value), reply_to=message)
    if fault is Fault.CRASH:
        raise RuntimeError(fault.value)
    return call_next(message, context)


def nan_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Make a client train and return NaN as in `[faults]`."""
    fault = _fault(message, context)
    reply = call_next(message, context)
    if fault is Fault.NAN:
        _fill_with_nan(reply)
    return reply


def _fault(message: Message, context: Context) -> Fault:
    """Return the fault for a train message."""
    experiment = client_runtime(context).experiment
    if not experiment.faults.active:
        return Fault.NONE
    client, seed = client_index(context), experiment.seed
    asked = record_of_stage(message)
    if asked is None:
        return fault_of(experiment.faults, seed, server_round(message), client)
    round_, stage, _ = asked
    stages = list(Stage)
    if stages.index(stage) < stages.index(stage_of_fault(seed, round_, client)):
        return Fault.NONE
    return fault_of(experiment.faults, seed, round_, client)


def _fill_with_nan(reply: Message) -> None:
    """Replace every floating-point number of a reply by NaN."""
    for name, record in records_in(reply.content, ArrayRecord).items():
        reply.content[name] = record_of(
            {
                key: np.full_like(values, np.nan) if values.dtype.kind == "f" else values
                for key, values in arrays_in(record).items()
            }
        )
