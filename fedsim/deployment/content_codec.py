"""The content of a message between server and client processes, encoded as one record of bytes.

Flower sends each array of a content, and each chunk of an array, by a request of its own, and keeps several rows of its
database for each. One record of bytes takes one request.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from fedsim.flower.records import decode_records, encode_records
from fedsim.records import config_in

NAME = "parcel"  # on the wire: of the record, and of its one value


def encode_content(content: RecordDict) -> RecordDict:
    """Return a content as one record of bytes, in Flower's encoding."""
    return RecordDict({NAME: ConfigRecord({NAME: encode_records(content)})})


def decode_content(content: RecordDict) -> RecordDict:
    """Return the content that `encode_content` has encoded; raises `ValueError` where it hasn't."""
    body = config_in(content, NAME).get(NAME)
    if not isinstance(body, bytes) or len(content) != 1:
        raise ValueError("the message's content is not one encoded record")
    try:
        return decode_records(body)
    except Exception as error:  # bytes that are no content raise exceptions of many classes
        raise ValueError(f"the message's content is damaged ({type(error).__name__})") from None
