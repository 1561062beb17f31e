"""The content of a message between server and client processes, as one piece.

Flower sends each array of a content, and each piece of an array, by a request of its own, of which its database notes
several things. One record of bytes takes one request.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from fedsim.flower.records import decode_records, encode_records
from fedsim.records import config_in

PARCEL = "parcel"  # the record, and what it holds


def encode_content(content: RecordDict) -> RecordDict:
    """Return a content as one record of bytes, as Flower serialises it."""
    return RecordDict({PARCEL: ConfigRecord({PARCEL: encode_records(content)})})


def decode_content(content: RecordDict) -> RecordDict:
    """Return the content that was wrapped.

    Raises:
        ValueError: It is none that `encode_content` returned.
    """
    body = config_in(content, PARCEL).get(PARCEL)
    if not isinstance(body, bytes) or len(content) != 1:
        raise ValueError("the message holds no parcel, or something beside it")
    try:
        return decode_records(body)
    except Exception as error:  # whatever bytes that are no content raise
        raise ValueError(f"the parcel is damaged ({type(error).__name__})") from None
