"""A client's connection to a server, over Flower's Fleet API. It survives restarts of the server.

A request that fails is repeated, after the client has joined again, until the server answers. An error that a repetition
can't mend ends the client (`Refused`), or drops the message at hand (`ReplyDropped`).
"""

from __future__ import annotations

import itertools
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, Metadata

from fedsim.deployment import wire
from fedsim.deployment.certificates import trusting
from fedsim.deployment.content_codec import encode_content
from fedsim.errors import Refused
from fedsim.flower.fleet import FleetApi
from fedsim.flower.http import is_not_activated, is_other_version
from fedsim.flower.paths import TAKE
from fedsim.flower.runs import Run
from fedsim.flower.wire_message import WireMessage

HOLD = 10  # seconds: the longest poll for a message
TIMEOUTS = (30.0, HOLD + 20.0, 3.0)  # seconds: of requests, of polls for a message, of heartbeats
BEAT = 5.0  # seconds; a server gives this client's key to another process 15 s after the last request
FIRST_PAUSE, LAST_PAUSE, PAUSE_IF_TURNED_AWAY = 0.2, 5.0, 3.0  # seconds
MOST_ACTIVATIONS = 10  # failed ones; a server has a client that was killed online for 20 s
CLOCK_TOLERANCE = 60.0  # seconds; Flower's server takes signatures up to 300 s old

T = TypeVar("T")


class ReplyDropped(Exception):
    """A message or its reply is of no use any more: the run has ended, or the message is gone. Says why."""


class ReplyTooLarge(ReplyDropped):
    """The server takes no messages of this size."""


class Connection:
    """The connection of one client process, which has a node key, to the server at `HOST:PORT`.

    The server's certificate is checked against `root_certificates` (PEM); None: no TLS. `tell` is called with a line
    when the server is lost or refuses this client for now, and when it answers again.
    """

    def __init__(
        self,
        address: str,
        root_certificates: bytes | None,
        key: ec.EllipticCurvePrivateKey,
        tell: Callable[[str], None],
    ) -> None:
        self._address, self._has_tls, self._tell = address, root_certificates is not None, tell
        url, instance = f"{'https' if self._has_tls else 'http'}://{address}", secrets.token_hex(8)

        def headers(path: str) -> dict[str, str]:
            hold = {wire.HOLD: str(HOLD)} if path == TAKE else {}
            return {wire.INSTANCE: instance, **hold}

        self._fleet, self._poll, self._pulse = (
            FleetApi(url, key, headers, trusting(root_certificates), timeout) for timeout in TIMEOUTS
        )
        self.node_id = 0  # the node that the server has given to this client's key; 0 before it has joined
        self._last = ""  # id of the last message that has arrived
        self._told = ""
        self._ended = threading.Event()

    def join(self) -> None:
        """Join, and start sending heartbeats; raises `Refused`."""
        self._retried(self._rejoin)
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def leave(self) -> None:
        """Take this client offline, if it has joined and the server can be reached."""
        self._ended.set()
        if self.node_id:
            with suppress(httpx.HTTPError, ValueError):
                self._pulse.deactivate(self.node_id)

    def pull(self) -> Message | None:
        """Return the next message with its content still encoded; None: none came within `HOLD` seconds.

        Raises `ReplyDropped` for a message that can't be read, and `Refused` if the server refuses this client.
        """
        before = time.monotonic()
        encoded = self._retried(lambda: self._poll.take(self.node_id, self._last))
        if encoded is None:
            if time.monotonic() - before < 1:  # the server doesn't do long polling
                time.sleep(FIRST_PAUSE)
            return None
        self._last = encoded.id
        try:
            message = encoded.decode()
        except ValueError as error:
            raise ReplyDropped(f"a message could not be read: {error}") from None
        if message.metadata.dst_node_id != self.node_id:
            raise ReplyDropped("the server sent a message for another client")
        return message

    def run(self, run_id: int) -> tuple[Run, bytes]:
        """Return a run, and its bundle; raises as `pull`."""
        run = self._retried(lambda: self._fleet.run(self.node_id, run_id))
        return run, self._retried(lambda: self._fleet.bundle(self.node_id, run))

    def push(self, reply: Message, seconds: float) -> int:
        """Send a reply that took `seconds` to make; return its size in bytes.

        Raises:
            ReplyTooLarge: The reply exceeds the server's limit.
            ReplyDropped: The server doesn't wait for it any more.
            Refused: The server refuses this client.
        """
        if reply.metadata.ttl <= 0:
            raise ReplyDropped("the reply comes too late")
        if reply.has_content():
            reply.content = encode_content(reply.content)
        (encoded,) = WireMessage.encode([reply])
        self._retried(lambda: self._give(reply.metadata, encoded, seconds))
        return sum(map(len, encoded.contents.values()))

    def _rejoin(self) -> None:
        """Make sure that the server has this client online; a client that is online can't be activated again."""
        if self.node_id:
            try:
                if self._fleet.heartbeat(self.node_id):
                    return
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.UNAUTHORIZED:
                    raise
        try:
            self.node_id = self._fleet.activate()
        except httpx.HTTPStatusError as error:
            if self._has_tls or not is_not_activated(error.response):
                raise
            self._fleet.register()
            self.node_id = self._fleet.activate()

    def _give(self, metadata: Metadata, reply: WireMessage, seconds: float) -> None:
        if metadata.src_node_id != self.node_id:
            raise ReplyDropped("the server has forgotten this client, and the run with it")
        self._fleet.give(self.node_id, reply, seconds)

    def _beat(self) -> None:
        """Send heartbeats; their errors are ignored, since the next request has the same."""
        while not self._ended.wait(BEAT):
            with suppress(httpx.HTTPError, ValueError):
                self._pulse.heartbeat(self.node_id)

    # --- retries and errors ---------------------------------------------------------------------------------

    def _retried(self, request: Callable[[], T]) -> T:
        """Repeat a request until it succeeds; return its result. Raises what a repetition can't mend."""
        for failures in itertools.count():
            try:
                if failures:
                    self._rejoin()
                result = request()
            except httpx.HTTPStatusError as error:
                self._on_refusal(error, failures)
            except httpx.TransportError as error:
                self._on_transport_error(error, failures)
            except ValueError as error:  # Flower's client raises it for an answer that is not Flower's
                self._wait(f"{self._address} answers with something else ({error})", failures)
            else:
                if self._told:
                    self._tell(f"{self._address} answers again")
                self._told = ""
                return result
        raise AssertionError

    def _on_refusal(self, error: httpx.HTTPStatusError, failures: int) -> None:
        """Wait if the server may answer a refused request later; else raise `Refused` or `ReplyDropped`."""
        response, reason = error.response, wire.reason_of(error.response)
        joining = error.request.url.path.endswith(("activate-node", "register-node"))
        code, address = response.status_code, self._address
        if is_other_version(response):
            raise Refused(f"{address} has another version of Flower: {reason}")
        if code >= 500 or (code == httpx.codes.UNAUTHORIZED and not joining):
            self._wait(f"{address} answers {code} ({reason})", failures)
        elif code in (httpx.codes.CONFLICT, httpx.codes.TOO_MANY_REQUESTS):
            self._wait(f"{address} refuses this client for now: {reason}", failures, PAUSE_IF_TURNED_AWAY)
        elif joining and is_not_activated(response) and failures < MOST_ACTIVATIONS:
            why = f"{address} refuses this client for now: its key is, or was until now, in use"
            self._wait(why, failures, PAUSE_IF_TURNED_AWAY)
        elif joining:
            self._raise_not_admitted(response, reason)
        elif code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise ReplyTooLarge(reason)
        else:
            raise ReplyDropped(reason)

    def _raise_not_admitted(self, response: httpx.Response, reason: str) -> NoReturn:
        refusal = f"{self._address} refuses this client"
        if response.status_code != httpx.codes.UNAUTHORIZED and not is_not_activated(response):
            raise Refused(f"{refusal}: {reason}")
        if (off := _clock_difference(response)) > CLOCK_TOLERANCE:
            raise Refused(f"{refusal}: this machine's clock is {off:.0f} s off the server's")
        raise Refused(f"this client's key is not registered at {self._address} ({reason})")

    def _on_transport_error(self, error: httpx.TransportError, failures: int) -> None:
        """Wait for a server that can't be reached; raise `Refused` where TLS fails, or one side has TLS and the other not."""
        if (problem := _tls_problem(error)) is not None:
            raise Refused(f"{self._address}: {problem}")
        if not self._has_tls and not isinstance(error, httpx.ConnectError) and _speaks_tls(self._address):
            raise Refused(f"{self._address} speaks TLS; --insecure is for a server without it")
        # The first failure may be a kept connection that the server has closed.
        self._wait(f"{self._address} is away ({error or type(error).__name__})" if failures else "", failures)

    def _wait(self, why: str, failures: int, pause: float = 0.0) -> None:
        if why and not self._told:
            self._tell(f"{why}; trying again")
            self._told = why
        time.sleep(pause or min(FIRST_PAUSE * 2 ** min(failures, 10), LAST_PAUSE))


def _clock_difference(response: httpx.Response) -> float:
    """Return by how many seconds this machine's clock and the server's differ; 0: the answer has no date."""
    try:
        return abs(parsedate_to_datetime(response.headers["date"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return 0.0


def _tls_problem(error: BaseException | None) -> str | None:
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


def _speaks_tls(address: str) -> bool:
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
