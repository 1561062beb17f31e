"""A client's side of secure aggregation in Flower: a mod that answers the stages, and masks the update.

Wherever a mod says it is on, a client answers no train message but a stage of the protocol, and nothing leaves it
but the protocol's bytes: no arrays, no metrics, no number of examples, no privacy event, no text of an error.
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
from fedsim.clients.discretion import keeps_quiet, note
from fedsim.clients.process import ClientProcess, run_label
from fedsim.messages import LEDGER, VECTOR
from fedsim.privacy.secagg.client import ClientSession
from fedsim.privacy.secagg.ideal import IdealClient
from fedsim.privacy.secagg.primitives import Entropy
from fedsim.privacy.secagg.spec import Policy, Stage
from fedsim.records import config_in, find_record, records_in
from fedsim.secagg.messages import RECORD, ROUNDS, record_of_stage, refusal, reply, task_of
from fedsim.secagg.setup import graph_entropy, identity_of
from fedsim.streams import numpy_stream
from fedsim.vectors import difference

log = logging.getLogger(__name__)

Session = ClientSession | IdealClient


@dataclass(frozen=True, kw_only=True)
class Participant:
    """What a client brings to secure aggregation.

    Attributes:
        policy: What it accepts.
        number: Its number among the clients.
        run: Of which run it accepts rounds.
        uniform: Whether it weighs 1, or its `num-examples`.
        identity: Its private identity key (32 bytes); needed against a malicious server.
        rounding: Draws the roundings of a round.
        graph_entropy: Draws its part in the choice of a round's graph. (All that is secret is the operating
            system's.)
    """

    policy: Policy
    number: int
    run: str
    uniform: bool = False
    identity: bytes | None = None
    rounding: Callable[[int], np.random.Generator] = lambda round_: _from_the_system()
    graph_entropy: Callable[[int], Entropy] = lambda round_: os.urandom


def _from_the_system() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16))))


def secure(participant_of: Callable[[Context], Participant | None]) -> Mod:
    """Return the mod of clients that take part as said; who is None takes part in no secure aggregation."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        participant = participant_of(context)
        if participant is None:
            return call_next(message, context)
        try:
            body = _answer(participant, message, context, call_next)
        except Exception as error:  # whatever it says, it may be about the data
            context.state.pop(RECORD, None)
            if keeps_quiet(context):
                note(context, f"refuses: {type(error).__name__}: {error}")
            else:
                log.warning("client %d refuses: %s: %s", participant.number, type(error).__name__, error)
            return refusal(message)
        return Message(reply(body), reply_to=message)

    return mod


def _answer(
    participant: Participant, message: Message, context: Context, call_next: ClientAppCallable
) -> bytes:
    """Answer a stage, and keep the session for the next one.

    Raises:
        Exception: The client refuses, or has failed.
    """
    asked = record_of_stage(message)
    if asked is None:
        raise ValueError(
            "a train message outside of secure aggregation, which would ask for the update itself"
        )
    round_, stage, request = asked
    if stage is Stage.ADVERTISE:
        session, body = _begin(participant, context, round_, request)
    else:
        session = _session(participant, context, round_)
        session.check_due(stage)
        upload = stage is Stage.UPLOAD
        vector, task = _trained(participant, session, message, context, call_next) if upload else (None, None)
        body = session.answer(stage, request, vector=vector, task=task)
    if session.closed:
        context.state.pop(RECORD, None)
    else:
        context.state[RECORD] = ConfigRecord({"session": session.dumps()})
    return body


def _begin(participant: Participant, context: Context, round_: int, request: bytes) -> tuple[Session, bytes]:
    """Begin a round, for the first and only time; a session that is open is forgotten.

    A second try, even before an upload, would let a server that cheats try for another graph.
    """
    kind = ClientSession if participant.policy.mode == "real" else IdealClient
    session, body = kind.begin(
        request,
        participant.policy,
        participant.number,
        identity=participant.identity,
        graph_entropy=participant.graph_entropy(round_),
    )
    if (session.spec.run, session.spec.round) != (participant.run, round_):
        raise ValueError(f"round {session.spec.round} of run {session.spec.run}: not the one of the message")
    _check_new(context, session)
    _kept(context, ROUNDS)[session.spec.run] = session.spec.round
    return session, body


def _check_new(context: Context, session: Session) -> None:
    """Refuse a round if this client has begun it, or a later one of its run, before."""
    last = config_in(context.state, ROUNDS).get(session.spec.run, 0)
    if not isinstance(last, int) or session.spec.round <= last:
        raise ValueError(f"round {session.spec.round}: this client has begun round {last!r}")


def _session(participant: Participant, context: Context, round_: int) -> Session:
    """Take the open session out of the state."""
    record = find_record(context.state, ConfigRecord, RECORD)
    if record is None:
        raise ValueError("no session is open")
    del context.state[RECORD]
    kind = ClientSession if participant.policy.mode == "real" else IdealClient
    stored = bytes(record["session"])  # type: ignore[arg-type]
    session = kind.loads(stored, participant.policy, identity=participant.identity)
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
    """Have the app train, once in a round; return the encoded update, and what it was trained on."""
    spec = session.spec
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
    vector = spec.encoding.encode(update, weight, metrics, participant.rounding(spec.round))  # type: ignore[arg-type]
    return vector, task


def _keep_events(context: Context, content: RecordDict) -> None:
    """Add what a reply says that it releases to the client's own ledger, which stays with it."""
    said = find_record(content, ConfigRecord, LEDGER)
    if said is not None:
        ledger = _kept(context, LEDGER)
        ledger["events"] = [*ledger.get("events", []), *said["events"]]  # type: ignore[misc]


def _kept(context: Context, name: str) -> ConfigRecord:
    """Return a record of a client's state, which begins empty."""
    record = find_record(context.state, ConfigRecord, name)
    if record is None:
        record = context.state[name] = ConfigRecord()
    return record


# --- fedsim's clients ---------------------------------------------------------------------------------------


def _participant(context: Context) -> Participant | None:
    """Return what a client of an experiment brings."""
    bench = client_runtime(context)
    if bench.policy is None:
        return None
    experiment, client, policy = bench.experiment, client_index(context), bench.policy
    identity, place = None, ClientProcess.of(context)
    if policy.assumptions.malicious and place is not None:  # nothing that the server could have chosen
        keys = place.own_keys()
        policy, identity = replace(policy, registry=keys.registry), keys.identity
    elif policy.assumptions.malicious:
        identity = identity_of(experiment.seed, client)
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
            experiment, round_, client, secret=place is not None and not place.loopback
        ),
    )


secagg_mod = secure(_participant)
