"""What a server says no with, and what goes wrong before it can: read, and told apart."""

from __future__ import annotations

import socket
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx


class Dropped(Exception):
    """What was asked for is no use any more: the run has ended, the message is gone. Says why."""


class TooLarge(Dropped):
    """The server takes no messages of this size."""


def reason_of(response: httpx.Response) -> str:
    """Return what a refusal says, in one line."""
    try:
        tree = response.json()
    except ValueError:
        tree = None
    said = tree.get("error", tree.get("detail")) if isinstance(tree, dict) else None
    extra = f" {tree['extra']}" if isinstance(tree, dict) and "extra" in tree else ""
    text = f"{said}{extra}" if said else response.reason_phrase or f"status {response.status_code}"
    return " ".join(text.split())[:300]


def clock_difference(response: httpx.Response) -> float:
    """Return by how many seconds this machine's clock and the server's differ; 0 where it doesn't say."""
    try:
        return abs(parsedate_to_datetime(response.headers["date"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return 0.0


def tls_problem(error: BaseException | None) -> str | None:
    """Return why TLS will never come about; None where it may, or where it is not the matter."""
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
    """Say whether a server accepts TLS."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=5) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except OSError:
        return False
