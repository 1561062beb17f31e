"""The transcript of a session: both sides hash all messages of a client, and the client signs it.

So any bit changed in transit, in either direction, is detected at the client's next reply.
"""

from __future__ import annotations

import hashlib

from fedsim.privacy.secagg.primitives import PROTOCOL, SIGNATURE, SigningKey, digest, is_signed, joined
from fedsim.privacy.secagg.spec import RoundSpec, Stage
from fedsim.privacy.secagg.wire import id_bytes


def initial_transcript(spec: RoundSpec, client: int) -> bytes:
    """Return the transcript (32 bytes) before the first message."""
    return digest(b"transcript", spec.dumps(), id_bytes(client))


def hash_of(message: bytes | memoryview) -> bytes:
    """Return a message's SHA-256, as in the transcript."""
    return hashlib.sha256(message).digest()


def extended(transcript: bytes, stage: Stage, asked: bytes, body: bytes | memoryview) -> bytes:
    """Return the transcript after a stage, from the hash of its request and the body of its reply."""
    return digest(b"stage", transcript, stage.value.encode(), asked, hash_of(body))


def signed(key: SigningKey, transcript: bytes, body: bytes) -> bytes:
    """Return a reply: its body, and a signature of it and the transcript."""
    return body + key.sign(joined(PROTOCOL, b"reply", transcript))


def is_signed_by(public: bytes, signature: bytes, transcript: bytes) -> bool:
    """Say whether a client signed a transcript."""
    return is_signed(public, signature, joined(PROTOCOL, b"reply", transcript))


def body_of(reply: bytes) -> tuple[memoryview, bytes]:
    """Return a reply's body, without a copy, and its signature."""
    if len(reply) < SIGNATURE:
        raise ValueError(f"sent {len(reply)} bytes, too few for a signature")
    return memoryview(reply)[:-SIGNATURE], reply[-SIGNATURE:]


def checked_body(
    reply: bytes, public: bytes, transcript: bytes, stage: Stage, asked: bytes
) -> tuple[memoryview, bytes]:
    """Return the body of a client's reply and the transcript after it.

    `public` is the client's signing key, `transcript` that before the stage, `asked` the hash of the request. Raises
    `ValueError` if the reply is not signed, or a message was altered in transit, now or before.
    """
    body, signature = body_of(reply)
    after = extended(transcript, stage, asked, body)
    if not is_signed_by(public, signature, after):
        raise ValueError("its signature does not match the messages: one was altered in transit")
    return body, after


def alive_statement(session: bytes, alive: bytes) -> bytes:
    """Return the statement that clients sign in stage `confirm`: these have uploaded."""
    return joined(PROTOCOL, b"alive", session, alive)
