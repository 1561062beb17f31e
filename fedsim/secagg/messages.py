"""What secure aggregation puts into Flower's messages.

Every stage is a train message with a record `secagg` in it: the round, the stage, and the protocol's bytes. In
stage `upload` what clients are to train on stands beside it. A reply holds the record `secagg` with bytes, and
nothing else.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedsim.arrays import values_of
from fedsim.flower.constants import ErrorCode
from fedsim.messages import OWN, SECAGG
from fedsim.privacy.secagg.spec import Stage
from fedsim.records import find_record

RECORD = SECAGG  # in a message: the protocol's; in a client's state: its open session
ROUNDS = "secagg-rounds"  # in a client's state: the last round of each run that it has begun
REFUSED = "refused (secure aggregation)"  # all that is said of whatever goes wrong in a client


def request(round_: int, stage: Stage, body: bytes, content: RecordDict | None = None) -> RecordDict:
    """Return what a client is sent in a stage; `content` is what it is to train on."""
    ours = ConfigRecord({"round": round_, "stage": stage.value, "body": body})
    return RecordDict({**(content or {}), RECORD: ours})


def reply(body: bytes) -> RecordDict:
    """Return what a client answers."""
    return RecordDict({RECORD: ConfigRecord({"body": body})})


def refusal(message: Message) -> Message:
    """Return what a client answers that refuses, or fails: always the same, for a reason may tell of its data."""
    return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, REFUSED), reply_to=message)


def record_of_stage(message: Message) -> tuple[int, Stage, bytes] | None:
    """Return the round, the stage and the bytes of a request; None where it is not one of secure aggregation.

    Raises:
        ValueError: There is a record, and it is not as it should be.
    """
    record = find_record(message.content, ConfigRecord, RECORD)
    if record is None:
        return None
    round_, stage, body = record.get("round"), record.get("stage"), record.get("body")
    if not isinstance(round_, int) or not isinstance(stage, str) or not isinstance(body, bytes):
        raise ValueError(f"the record {RECORD!r} lacks round, stage or body")
    return round_, Stage(stage), body


def body_of(message: Message) -> bytes:
    """Return the bytes of a reply.

    Raises:
        ValueError: The client has failed, or sent anything else, or anything more.
    """
    if message.has_error():
        raise ValueError(message.error.reason or f"error {message.error.code}")
    record = find_record(message.content, ConfigRecord, RECORD)
    if record is None or len(message.content) != 1 or record.keys() != {"body"}:
        raise ValueError("sent other records than those of secure aggregation")
    body = record["body"]
    if not isinstance(body, bytes):
        raise ValueError("sent no bytes")
    return body


def task_of(content: RecordDict) -> str:
    """Return the SHA-256 (hex) of what clients are to train on: all records but the protocol's, and what one alone is told.

    Of arrays that is names, dtypes, shapes and bytes, in their order; of settings names, types and values. Client
    and server each compute it from what they have, so clients that were sent different models notice.
    """
    digest = hashlib.sha256()
    for name in sorted(content.keys() - {RECORD, OWN}):
        record = content[name]
        kind = type(record).__name__
        if not isinstance(record, ArrayRecord):
            settings = sorted((key, _exactly(value)) for key, value in record.items())
            digest.update(_line([name, kind, settings]))
            continue
        digest.update(_line([name, kind, len(record)]))
        for key, array in record.items():
            values = np.ascontiguousarray(values_of(array))
            digest.update(_line([key, values.dtype.str, list(values.shape)]))
            digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _line(tree: Any) -> bytes:
    return json.dumps(tree, separators=(",", ":")).encode() + b"\n"


def _exactly(value: Any) -> list[Any]:
    """Return a setting with its type, as JSON has it without loss."""
    if isinstance(value, list):
        return ["list", *map(_exactly, value)]
    if isinstance(value, float | bytes):
        return [type(value).__name__, value.hex()]
    return [type(value).__name__, value]
