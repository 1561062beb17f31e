"""The client's side of secure aggregation in Flower: a mod that answers the protocol's stages and masks the update.

With the mod, a client answers only train messages that are a stage of the protocol, and sends only the protocol's
bytes: no arrays, metrics, number of examples, privacy events or error messages.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedsim.arrays import Values, values_of
from fedsim.clients.client_runtime import client_index, client_runtime
from fedsim.clients.private_output import has_private_output, note
from fedsim.clients.process import ClientProcess, run_label
from fedsim.layout import difference
from fedsim.messages import LEDGER, VECTOR
from fedsim.privacy.secagg.client import ClientSession
from fedsim.privacy.secagg.ideal import IdealClient
from fedsim.privacy.secagg.primitives import Entropy
from fedsim.privacy.secagg.spec import Policy, Stage
from fedsim.records import config_in, find_record, records_in
from fedsim.secagg.messages import RECORD, ROUNDS, record_of_stage, refusal, reply, task_of
from fedsim.secagg.setup import graph_entropy, identity_of
from fedsim.streams import numpy_stream

log = logging.getLogger(__name__)

Session = ClientSession | IdealClient


@dataclass(frozen=True, kw_only=True)
class Participant:
    """A client's settings for secure aggregation.

    Attributes:
        policy: The policy that it accepts.
        run: Label of the run of accepted rounds.
        uniform: Whether its weight is 1, else its `num-examples`.
        identity: Its private identity key (32 bytes); needed against a malicious server.
        rounding: Returns a round's generator for stochastic rounding.
        graph_entropy: Returns a round's source of the client's part in the choice of the graph. All secrets come from
            the operating system.
    """

    policy: Policy
    number: int
    run: str
    uniform: bool = False
    identity: bytes | None = None
    rounding: Callable[[int], np.random.Generator] = lambda round_: np.random.Generator(
        np.random.Philox(key=int.from_bytes(os.urandom(16)))
    )
    graph_entropy: Callable[[int], Entropy] = lambda round_: os.urandom


def secure(participant_of: Callable[[Context], Participant | None]) -> Mod:
    """Return a mod for clients with the given settings; None means no secure aggregation."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        participant = participant_of(context)
        if participant is None:
            return call_next(message, context)
        try:
            body = _answer(participant, message, context, call_next)
        except Exception as error:  # its text may reveal data
            context.state.pop(RECORD, None)
            if has_private_output(context):
                note(context, f"refuses: {type(error).__name__}: {error}")
            else:
                log.warning("client %d refuses: %s: %s", participant.number, type(error).__name__, error)
            return refusal(message)
        return Message(reply(body), reply_to=message)

    return mod


def _answer(
    participant: Participant, message: Message, context: Context, call_next: ClientAppCallable
) -> bytes:
    """Answer a stage, and store the session for the next one; any exception means that the client refuses."""
    asked = record_of_stage(message)
    if asked is None:
        raise ValueError(
            "a train message outside of secure aggregation: its reply would be the update itself"
        )
    round_, stage, request = asked
    if stage is Stage.ADVERTISE:
        session, body = _begin(participant, context, round_, request)
    else:
        session = _session(participant, context, round_)
        session.check_due(stage)
        vector, task = None, None
        if stage is Stage.UPLOAD:
            vector, task = _trained(participant, session, message, context, call_next)
        body = session.answer(stage, request, vector=vector, task=task)
    if session.closed:
        context.state.pop(RECORD, None)
    else:
        context.state[RECORD] = ConfigRecord({"session": session.dumps()})
    return body


def _begin(participant: Participant, context: Context, round_: int, request: bytes) -> tuple[Session, bytes]:
    """Begin a round once; an open session is discarded.

    A second start, even before an upload, would let a malicious server try another graph.
    """
    session, body = _kind(participant).begin(
        request,
        participant.policy,
        participant.number,
        identity=participant.identity,
        graph_entropy=participant.graph_entropy(round_),
    )
    if (session.spec.run, session.spec.round) != (participant.run, round_):
        raise ValueError(f"round {session.spec.round} of run {session.spec.run}: not the one of the message")
    _check_new(context, session)
    _kept(context, ROUNDS)[participant.run] = round_
    return session, body


def _check_new(context: Context, session: Session) -> None:
    """Refuse a round unless it is later than all rounds of its run that this client has begun."""
    last = config_in(context.state, ROUNDS).get(session.spec.run, 0)
    if not isinstance(last, int) or session.spec.round <= last:
        raise ValueError(f"round {session.spec.round}: this client has begun round {last!r}")


def _kind(participant: Participant) -> type[ClientSession] | type[IdealClient]:
    return ClientSession if participant.policy.mode == "real" else IdealClient


def _session(participant: Participant, context: Context, round_: int) -> Session:
    """Take the open session out of the state."""
    record = find_record(context.state, ConfigRecord, RECORD)
    if record is None:
        raise ValueError("no session is open")
    del context.state[RECORD]
    stored = bytes(record["session"])  # type: ignore[arg-type]
    session = _kind(participant).loads(stored, participant.policy, identity=participant.identity)
    if session.spec.round != round_:
        raise ValueError(f"round {round_}: the open session is of round {session.spec.round}")
    return session


def _trained(
    participant: Participant,
    session: Session,
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
) -> tuple[Values, str]:
    """Train, and return the encoded update and the hash of the train message."""
    message.content.pop(RECORD)
    task = task_of(message.content)
    received = records_in(message.content, ArrayRecord)
    trained = call_next(message, context)
    if trained.has_error():
        raise ValueError(f"the ClientApp failed: {trained.error.reason}")
    _keep_events(context, trained.content)
    ((name, arrays),) = records_in(trained.content, ArrayRecord).items()
    (metrics,) = records_in(trained.content, MetricRecord).values()
    weight = 1 if participant.uniform else int(metrics["num-examples"])  # type: ignore[arg-type]
    update = values_of(arrays[VECTOR]) if name == VECTOR else difference(arrays, received[name])
    rounding = participant.rounding(session.spec.round)
    return session.spec.encoding.encode(update, weight, metrics, rounding), task  # type: ignore[arg-type]


def _keep_events(context: Context, content: RecordDict) -> None:
    """Add a reply's privacy events to the ledger in the client's state, which it never sends."""
    released = find_record(content, ConfigRecord, LEDGER)
    if released is not None:
        ledger = _kept(context, LEDGER)
        ledger["events"] = [*ledger.get("events", []), *released["events"]]  # type: ignore[misc]


def _kept(context: Context, name: str) -> ConfigRecord:
    """Return a record of a client's state; an empty one on first use."""
    record = find_record(context.state, ConfigRecord, name)
    if record is None:
        record = context.state[name] = ConfigRecord()
    return record


def _participant(context: Context) -> Participant | None:
    """Return the settings of a client of an experiment."""
    runtime = client_runtime(context)
    if runtime.policy is None:
        return None
    experiment, client, policy = runtime.experiment, client_index(context), runtime.policy
    identity, process = None, ClientProcess.of(context)
    if policy.assumptions.malicious:
        if process is None:
            identity = identity_of(experiment.seed, client)
        else:  # the server can't choose these keys
            keys = process.own_keys()
            policy, identity = replace(policy, registry=keys.registry), keys.identity
    return Participant(
        policy=policy,
        number=client,
        run=run_label(context),
        uniform=experiment.server.weighting == "uniform",
        identity=identity,
        rounding=lambda round_: numpy_stream(
            experiment.seed, "secagg-rounding", round_=round_, client=client
        ),
        graph_entropy=lambda round_: graph_entropy(
            experiment, round_, client, secret=process is not None and not process.loopback
        ),
    )


secagg_mod = secure(_participant)
