"""The exceptions of a deployment's processes, and the reason in an HTTP refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


class HttpDenied(Exception):
    """The server refuses a request; the message is one line that says why.

    Attributes:
        status: HTTP status of the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Disconnected(Exception):
    """The other side has closed the connection before its request was answered."""


class ReplyDropped(Exception):
    """A message or its reply is of no use any more: the run has ended, or the message is gone. Says why."""


class ReplyTooLarge(ReplyDropped):
    """The server takes no messages of this size."""


class ClientRejected(Exception):
    """A client answers a message by an error.

    Attributes:
        code: Of Flower's `ErrorCode`.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Shutdown(BaseException):
    """The process is to end at once; only code that must not be left half done catches this."""


def reason_of(response: httpx.Response) -> str:
    """Return the reason in the body of an HTTP refusal, in one line; without one the phrase of its status."""
    try:
        tree = response.json()
    except ValueError:
        tree = None
    said = tree.get("error", tree.get("detail")) if isinstance(tree, dict) else None
    extra = f" {tree['extra']}" if isinstance(tree, dict) and "extra" in tree else ""
    text = f"{said}{extra}" if said else response.reason_phrase or f"status {response.status_code}"
    return " ".join(text.split())[:300]
