"""Records of secure aggregation in Flower's messages.

Every stage is a train message with a record `secagg`: the round, the stage and the protocol's bytes. In stage
`upload` the message also holds the content to train on. A reply holds only the record `secagg`, with bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedsim.arrays import values_of
from fedsim.errors import printable
from fedsim.flower.constants import ErrorCode
from fedsim.messages import OWN, SECAGG
from fedsim.privacy.secagg.spec import Stage
from fedsim.records import find_record

RECORD = SECAGG  # in a message: the protocol's bytes; in a client's state: its open session
ROUNDS = "secagg-rounds"  # in a client's state: the last round begun of each run
REFUSED = "refused (secure aggregation)"  # the same text for every failure in a client


def request(round_: int, stage: Stage, body: bytes, content: RecordDict | None = None) -> RecordDict:
    """Return the content of a stage's message; `content` is the train message's."""
    ours = ConfigRecord({"round": round_, "stage": stage.value, "body": body})
    return RecordDict({**(content or {}), RECORD: ours})


def reply(body: bytes) -> RecordDict:
    """Return the content of a reply."""
    return RecordDict({RECORD: ConfigRecord({"body": body})})


def refusal(message: Message) -> Message:
    """Return the reply of a client that refuses or fails: always the same, since a reason may reveal data."""
    return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, REFUSED), reply_to=message)


def record_of_stage(message: Message) -> tuple[int, Stage, bytes] | None:
    """Return a request's round, stage and bytes; None if it has no such record, `ValueError` for a malformed one."""
    record = find_record(message.content, ConfigRecord, RECORD)
    if record is None:
        return None
    round_, stage, body = record.get("round"), record.get("stage"), record.get("body")
    if not isinstance(round_, int) or not isinstance(stage, str) or not isinstance(body, bytes):
        raise ValueError(f"the record {RECORD!r} lacks round, stage or body")
    return round_, Stage(stage), body


def body_of(message: Message) -> bytes:
    """Return the bytes of a reply; raises `ValueError`, printable, if the client has failed, or sent other records."""
    if message.has_error():
        raise ValueError(printable(message.error.reason or f"error {message.error.code}"))
    record = find_record(message.content, ConfigRecord, RECORD)
    if record is None or len(message.content) != 1 or record.keys() != {"body"}:
        raise ValueError("sent other records than those of secure aggregation")
    body = record["body"]
    if not isinstance(body, bytes):
        raise ValueError("sent no bytes")
    return body


def task_of(content: RecordDict) -> str:
    """Return the SHA-256 (hex) of a train message: all records but the protocol's and the one for the single client.

    The hash covers names, dtypes, shapes and bytes of arrays, in order, and names, types and values of settings.
    Server and clients compute it independently, which detects different models sent to different clients.
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
    """Return a setting with its type, losslessly in JSON."""
    if isinstance(value, list):
        return ["list", *map(_exactly, value)]
    if isinstance(value, float | bytes):
        return [type(value).__name__, value.hex()]
    return [type(value).__name__, value]
