"""RecordDicts as bytes: the protobuf encoding in which Flower sends and keeps them."""

from __future__ import annotations

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict


def encode_records(records: RecordDict, *, deterministic: bool = False) -> bytes:
    """Return a RecordDict's encoding; a deterministic one is equal for equal records."""
    content: bytes = recorddict_to_proto(records).SerializeToString(deterministic=deterministic)
    return content


def decode_records(content: bytes) -> RecordDict:
    """Return the RecordDict that was encoded; the empty one for no bytes.

    Raises:
        Exception: The bytes are no encoding of a RecordDict. Protobuf and Flower raise exceptions of several classes.
    """
    return recorddict_from_proto(ProtoRecordDict.FromString(content))
