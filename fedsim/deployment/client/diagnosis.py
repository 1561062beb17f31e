"""Why a client and a server can't connect: their clocks, or TLS."""

from __future__ import annotations

import socket
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx


def clock_difference(response: httpx.Response) -> float:
    """Return by how many seconds this machine's clock and the server's differ; 0: the answer has no date."""
    try:
        return abs(parsedate_to_datetime(response.headers["date"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return 0.0


def tls_problem(error: BaseException | None) -> str | None:
    """Return why a TLS handshake will always fail; None: the error has another cause, or may pass."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
                return "it doesn't speak TLS"
            if error.reason and "ALERT" in error.reason:
                return f"it refuses TLS ({error.reason.replace('_', ' ').lower()})"
        error = error.__cause__ or error.__context__
    return None


def speaks_tls(address: str) -> bool:
    """Return whether a server accepts a TLS connection."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as plain:
            context.wrap_socket(plain).close()
    except OSError:
        return False
    return True
