"""The operator's credential: an Ed25519 signature over each request, valid once.

    Fedsim-Operator: <time, ISO>;<nonce, hex>;<signature, base64>

It covers the method, the path with its query, the body's SHA-256, the time and the nonce. A recorded request can be
neither changed nor replayed, not even after a restart of the server.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
from collections.abc import Callable, Generator
from datetime import UTC, datetime

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEADER = "Fedsim-Operator"
VALID = 65.0  # seconds: a minute in transit, and 5 s between the clocks


def sign(key: Ed25519PrivateKey, method: str, target: str, body: bytes) -> dict[str, str]:
    """Return the header with the credential of a request.

    The method is in capitals; the target is the path, with `?` and the query where there is one.
    """
    time, nonce = datetime.now(UTC).isoformat(), secrets.token_hex(16)
    signature = key.sign(_signed(method, target, body, time, nonce))
    return {HEADER: f"{time};{nonce};{base64.b64encode(signature).decode()}"}


class Verifier:
    """Checks the operator's requests.

    It remembers each nonce until its credential expires. It refuses credentials from before it was made: it can't know
    which nonces were used then.
    """

    def __init__(
        self, public_key: Ed25519PublicKey, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._public_key = public_key
        self._now = now
        self._since = now()
        self._used: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def check(self, method: str, target: str, body: bytes, header: str | None) -> None:
        """Check a request, and mark its nonce as used.

        Raises `ValueError` if the header is missing, malformed, expired or used before, or is of another request.
        """
        time, nonce, signature = self.read(header)
        try:
            self._public_key.verify(signature, _signed(method, target, body, time.isoformat(), nonce))
        except InvalidSignature:
            raise ValueError("the credential is not the operator's, or is of another request") from None
        with self._lock:
            now = self._now()
            self._used = {n: t for n, t in self._used.items() if (now - t).total_seconds() <= VALID}
            if nonce in self._used:
                raise ValueError("the credential was used before: the request is sent again")
            self._used[nonce] = time

    def read(self, header: str | None) -> tuple[datetime, str, bytes]:
        """Return a credential's time, nonce and signature. Only the time is checked; raises as `check`."""
        if not header:
            raise ValueError("the operator's credential is missing")
        try:
            text, nonce, encoded = header.split(";")
            time, signature = datetime.fromisoformat(text), base64.b64decode(encoded, validate=True)
            if time.tzinfo is None or time.isoformat() != text or len(bytes.fromhex(nonce)) != 16:
                raise ValueError
        except ValueError:
            raise ValueError("the operator's credential is malformed") from None
        age = (self._now() - time).total_seconds()
        if abs(age) > VALID:
            allowed = f"{VALID:.0f} are allowed"
            raise ValueError(f"the credential was signed {age:.0f} s ago, by its time; {allowed}")
        if time < self._since:
            raise ValueError("the credential was signed before this server was started, by its time")
        return time, nonce, signature


def _signed(method: str, target: str, body: bytes, time: str, nonce: str) -> bytes:
    digest = hashlib.sha256(body).hexdigest()
    return f"fedsim operator 1\n{method}\n{target}\n{digest}\n{time}\n{nonce}".encode()


class OperatorAuth(httpx.Auth):
    """Adds the credential to the requests of an httpx client."""

    requires_request_body = True

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request."""
        sign_request(self._key, request)
        yield request


def sign_request(key: Ed25519PrivateKey, request: httpx.Request) -> None:
    """Add the credential to a request."""
    target = request.url.raw_path.decode("ascii")
    request.headers.update(sign(key, request.method, target, request.content))
