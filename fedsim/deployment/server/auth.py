"""Authentication: each path is open to one kind of caller. Refusals are answered with their reason, and logged.

    /v1/control/..., /fedsim/...   the operator, by a signature over the whole request
    /v1/fleet/...                  registered clients, by Flower's signature over the time; one process for each client
    /health, /health/ready         everybody
    everything else                processes of this machine: the Runtime API of ServerApps, Flower's documentation

Flower checks clients' signatures too, but only after it has read a request of any size.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedsim.deployment.credential import HEADER as OPERATOR
from fedsim.deployment.credential import Verifier
from fedsim.deployment.server.asgi import MIB, Disconnected, HttpDenied, answer, header, read_body, replay
from fedsim.deployment.server.clients import Presence, Registration, fingerprint
from fedsim.deployment.server.refusal_log import MOST, RefusalLog
from fedsim.deployment.wire import INSTANCE, MANY, NODE, is_loopback
from fedsim.flower.paths import CONTROL, GIVE, SEND

log = logging.getLogger("fedsim.server")

PUBLIC_KEY, TIMESTAMP, SIGNATURE = "flwr-public-key", "flwr-timestamp", "flwr-signature"  # Flower's
FLEET, OWN = "/v1/fleet/", "/fedsim/"
HEALTH, READY = "/health", "/health/ready"
JOIN, LEAVE = f"{FLEET}activate-node", f"{FLEET}deactivate-node"
CLOSED = {f"{FLEET}register-node", f"{FLEET}unregister-node"}
IN_PARTS = {f"{FLEET}push-messages", f"{FLEET}push-object"}
OPERATOR_LIMIT = 16 * MIB  # an experiment is text, and a bundle holds no code
SIGNED_WITHIN, CLOCKS_DIFFER = 300.0, 5.0  # seconds; Flower's own limits
AT_ONCE = 16  # requests of a client; `fedsim client` has three
LOGGED = 300  # characters of a refusal by Flower


@dataclass(frozen=True)
class Credentials:
    """What requests are authenticated against."""

    operator: Verifier
    clients: Registration


@dataclass
class Auth:
    """An ASGI app that authenticates requests and passes them on to Flower's app or to fedsim's own."""

    flower: ASGIApp
    own: ASGIApp  # serves `/fedsim/...`
    credentials: Credentials | None  # None: `--insecure`, where every process of this machine may do anything
    presence: Presence  # which processes use the clients' keys
    take_offline: Callable[[bytes], None]
    """Called with the key of a client before it joins, since its former process may not have left."""
    limit: int  # bytes of a request's body, at most
    is_ready: Callable[[], bool]  # returns whether the server can start runs
    reply_limit: Callable[[int | None], float] = lambda node: math.inf
    """Returns how many bytes a reply of a node may have, at most; None: of any node."""
    refusals: RefusalLog = field(default_factory=RefusalLog)
    under_way: Counter[bytes] = field(default_factory=Counter)  # requests of each client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self.flower(scope, receive, send)
        elif scope["path"] in (HEALTH, READY):
            ready = scope["path"] == HEALTH or self.is_ready()
            status = {"status": "ok" if ready else "starting", "version": version("fedsim")}
            await answer(send, 200 if ready else 503, status)
        else:
            request = _Request(scope)
            try:
                await self._serve(request, receive, send)
            finally:
                if request.is_counted:
                    self.under_way[request.key] -= 1

    async def _serve(self, request: _Request, receive: Receive, send: Send) -> None:
        try:
            if request.path.startswith((CONTROL, OWN)):
                body = await self._check_operator(request, receive)
            elif request.path.startswith(FLEET):
                body = await self._check_client(request, receive)
            else:
                _check_own_machine(request.scope)
                limit = max(self.limit, MANY) if request.path == SEND else self.limit
                body = await read_body(request.scope, receive, limit)
        except HttpDenied as denied:
            self.refusals.refused(request.caller, request.who, f"{request.what}: {denied}")
            await answer(send, denied.status, {"error": str(denied)})
            return
        except Disconnected:
            return
        app = self.own if request.path.startswith(OWN) else self.flower
        await app(request.scope, replay(body, receive), self._watching(request, send))
        if request.status >= HTTPStatus.BAD_REQUEST and app is self.flower:
            why = f"{request.what}: {request.status} {request.reason}"
            self.refusals.refused(request.caller, request.who, why)

    async def _check_operator(self, request: _Request, receive: Receive) -> bytes:
        """Return the body of a request with the operator's credential; raises `HttpDenied` and `Disconnected`."""
        scope, limit = request.scope, min(self.limit, OPERATOR_LIMIT)
        if self.credentials is None:
            return await read_body(scope, receive, limit)
        verifier, credential = self.credentials.operator, header(scope, OPERATOR)
        try:
            verifier.read(credential)  # its time, for which the body isn't needed
            body = await read_body(scope, receive, limit)
            verifier.check(scope["method"], _target(scope), body, credential)
        except ValueError as error:
            raise HttpDenied(401, str(error)) from None
        return body

    async def _check_client(self, request: _Request, receive: Receive) -> bytes:
        """Return the body of a client's request; raises `HttpDenied` and `Disconnected`."""
        if self.credentials is not None:
            if request.path in CLOSED:
                why = "registration is closed; clients are registered in the server's nodes.json"
                raise HttpDenied(403, why)
            self._authenticate(request, self.credentials.clients)
        if request.path in IN_PARTS:
            raise HttpDenied(403, "a reply in parts is not accepted; `fedsim client` sends replies whole")
        self.presence.check(request.key, request.instance)
        if request.path == JOIN:
            self.presence.check_join(request.key)
        limit: float = self.limit
        if request.path == GIVE:
            limit = min(limit, await asyncio.to_thread(self.reply_limit, request.scope.get(NODE)))
        body = await read_body(request.scope, receive, limit)
        if request.path == JOIN:
            await asyncio.to_thread(self.take_offline, request.key)
        return body

    def _authenticate(self, request: _Request, clients: Registration) -> None:
        """Check a client's key and signature, and note which client it is; raises `HttpDenied`."""
        if not request.key:
            raise HttpDenied(401, "the client's key is missing")
        request.client = clients.client(request.key)
        if request.client is None:
            raise HttpDenied(401, f"the key {fingerprint(request.key)} is not registered")
        try:
            _check_signature(request.scope, request.key)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise HttpDenied(401, str(error) or "the signature is not by the client's key") from None
        if self.refusals.is_over(request.caller):
            raise HttpDenied(429, f"was refused {MOST} times within a minute")
        if self.under_way[request.key] >= AT_ONCE:
            raise HttpDenied(429, f"{AT_ONCE} requests of this client are under way, the most allowed")
        self.under_way[request.key] += 1
        request.is_counted = True
        request.scope[NODE] = clients.nodes[request.client]

    def _watching(self, request: _Request, send: Send) -> Send:
        """Return a `send` that notes the answer's status before it is sent, and so before the caller's next request."""

        async def watched(message: Message) -> None:
            request.note(message)
            is_served = message["type"] == "http.response.start" and request.status < HTTPStatus.BAD_REQUEST
            if is_served and request.path.startswith(FLEET) and request.key:
                self._note_served(request)
            await send(message)

        return watched

    def _note_served(self, request: _Request) -> None:
        if request.path == LEAVE:
            self.presence.left(request.key)
            log.info("%s has left", request.who)
            return
        self.presence.served(request.key, request.instance)
        if request.path == JOIN:
            log.info("%s has joined", request.who)


class _Request:
    """A request, its caller, and the status of its answer."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.key = _decoded(header(scope, PUBLIC_KEY))
        self.instance = header(scope, INSTANCE) or ""
        self.client: int | None = None
        self.is_counted = False  # among the client's requests that are under way
        self.status = 0  # of no answer: the caller has left
        self._answer = b""

    @property
    def caller(self) -> str:
        """The caller, whatever its port: a client's number if it was authenticated, else the address."""
        if self.client is not None:
            return f"client {self.client}"
        peer = self.scope.get("client")
        return str(peer[0]) if peer else "an unknown address"

    @property
    def who(self) -> str:
        """The caller: a client's number if it was authenticated, and the address."""
        peer = self.scope.get("client")
        address = f"{peer[0]}:{peer[1]}" if peer else "an unknown address"
        return address if self.client is None else f"client {self.client} ({address})"

    @property
    def what(self) -> str:
        """The path, with control characters escaped."""
        return ascii(self.path)[1:-1]

    @property
    def reason(self) -> str:
        """The reason of a refusal, on one line."""
        text = self._answer.decode("utf-8", "replace")
        with suppress(ValueError, KeyError, TypeError):  # Flower's refusals aren't JSON with `error`
            text = json.loads(text)["error"]
        return " ".join(text.split())[:LOGGED]

    def note(self, message: Message) -> None:
        """Note the status of the answer, or the beginning of a refusal."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self.status >= HTTPStatus.BAD_REQUEST and len(self._answer) < LOGGED:
            self._answer += message.get("body", b"")


def _check_own_machine(scope: Scope) -> None:
    """Raise `HttpDenied` where a request comes from another machine."""
    client, server = scope.get("client"), scope.get("server")
    if client is None or not (is_loopback(client[0]) or (server and client[0] == server[0])):
        raise HttpDenied(403, "is for processes on the server's own machine")


def _check_signature(scope: Scope, key: bytes) -> None:
    """Check Flower's signature over the time; raises `ValueError` or `InvalidSignature`."""
    timestamp, signature = header(scope, TIMESTAMP), _decoded(header(scope, SIGNATURE))
    if not timestamp or not signature:
        raise ValueError("the client's signature is missing")
    public_key = serialization.load_pem_public_key(key)
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise ValueError("the client's key is of another kind")
    public_key.verify(signature, timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    age = (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()
    if not -CLOCKS_DIFFER < age < SIGNED_WITHIN + CLOCKS_DIFFER:
        allowed = f"{SIGNED_WITHIN:.0f} s are allowed"
        raise ValueError(f"was signed {age:.0f} s ago, by the client's clock; {allowed}")


def _target(scope: Scope) -> str:
    """Return a request's path and query, as they were sent (still percent-encoded)."""
    path, query = (scope[key].decode("ascii", "replace") for key in ("raw_path", "query_string"))
    return f"{path}?{query}" if query else path


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        return b""
