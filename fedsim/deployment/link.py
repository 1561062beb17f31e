"""A client's connection to a server, over Flower's Fleet API; it outlives the server's being away.

Whatever is asked is asked again, after joining anew, until the server answers. What trying again can't mend ends
the client (`Refused`), or what it was about to do (`Dropped`).
"""

from __future__ import annotations

import itertools
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, Metadata
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.common.serde import fab_from_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import BytesList
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import Run
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedsim.deployment import wire
from fedsim.deployment.letter import Letter, pack, unpack
from fedsim.deployment.parcel import wrap
from fedsim.deployment.refusals import (
    Dropped,
    TooLarge,
    clock_difference,
    flower_code,
    is_not_activated,
    reason_of,
    speaks_tls,
    tls_problem,
)
from fedsim.errors import Refused

HOLD = 10  # seconds that a server may hold an empty answer
TIMEOUTS = (30.0, HOLD + 20.0, 3.0)  # seconds: of calls, of polls for a message, of heartbeats
BEAT = 5.0  # seconds; a server lets another process have this client's key 15 s after it last heard of it
FIRST_PAUSE, LAST_PAUSE, PAUSE_IF_TURNED_AWAY = 0.2, 5.0, 3.0  # seconds
MOST_ACTIVATIONS = 10  # failed ones; a server takes a client that was killed for joined for 20 s
CLOCK_TOLERANCE = 60.0  # seconds; Flower's server takes signatures up to 300 s old

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """Where a server is, and how it is known.

    Attributes:
        address: HOST:PORT.
        root_certificates: Of the authority that signed its certificate, as PEM; None: no TLS.
    """

    address: str
    root_certificates: bytes | None

    @property
    def url(self) -> str:
        """The address, for HTTP."""
        return f"{'http' if self.root_certificates is None else 'https'}://{self.address}"

    def verify(self) -> ssl.SSLContext | bool:
        """Return what checks its certificate."""
        if self.root_certificates is None:
            return False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.root_certificates.decode("ascii"))
        return context


class Link:
    """The connection of one client process.

    Args:
        server: Whom to connect to.
        key: This client's.
        tell: Called with a line when the server is lost or turns this client away, and when it is back.
    """

    def __init__(self, server: Server, key: ec.EllipticCurvePrivateKey, tell: Callable[[str], None]) -> None:
        self._server = server
        self._tell = tell
        self._public = public_key_to_bytes(key.public_key())
        interceptors = (_Headers(), NodeAuthHttpInterceptor(key, key.public_key()))
        self._fleet, self._poll, self._pulse = (
            FleetHttpClient(server.url, interceptors=interceptors, verify=server.verify(), timeout=timeout)
            for timeout in TIMEOUTS
        )
        self._node = Node()
        self._taken = ""  # the last message that came
        self._told = ""
        self._ended = threading.Event()

    @property
    def node_id(self) -> int:
        """The node that the server has given to this client's key."""
        return self._node.node_id

    def join(self) -> None:
        """Join, and go on saying that this client is alive; raises `Refused`."""
        self._steadily(self._rejoin)
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def leave(self) -> None:
        """Say goodbye, if this client has joined and the server is there."""
        self._ended.set()
        if not self.node_id:
            return
        with suppress(httpx.HTTPError, ValueError):
            self._pulse.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))

    def pull(self) -> Message | None:
        """Return the next message, as it came, or None if there is none for a while.

        Raises:
            Dropped: There was one, and it can't be had.
            Refused: The server doesn't want this client any more.
        """
        before = time.monotonic()
        answer, contents = self._steadily(self._take)
        if not answer.messages_list:
            if time.monotonic() - before < 1:  # a server that holds no answers back
                time.sleep(FIRST_PAUSE)
            return None
        (head, *_), (tree, *_) = answer.messages_list, answer.message_object_trees
        self._taken = tree.object_id
        try:
            message = Letter(head, tree, contents).message()
        except ValueError as error:
            raise Dropped(f"a message could not be read: {error}") from None
        if message.metadata.dst_node_id != self.node_id:
            raise Dropped("a message for someone else came")
        return message

    def run(self, run_id: int) -> tuple[Run, bytes]:
        """Return a run, and its bundle; raises as `pull`."""
        answer = self._steadily(lambda: self._fleet.GetRun(GetRunRequest(node=self._node, run_id=run_id)))
        run = run_from_proto(answer.run)
        request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
        return run, fab_from_proto(self._steadily(lambda: self._fleet.GetFab(request)).fab).content

    def push(self, reply: Message, seconds: float) -> int:
        """Send a reply that took so many seconds to make; return its size in bytes.

        Raises:
            TooLarge: The server doesn't take that much.
            Dropped: Nobody waits for it any more.
            Refused: The server doesn't want this client any more.
        """
        if reply.metadata.ttl <= 0:
            raise Dropped("the reply comes too late")
        if reply.has_content():
            reply.content = wrap(reply.content)
        (letter,) = Letter.of([reply])
        self._steadily(lambda: self._give(reply.metadata, letter, seconds))
        return sum(map(len, letter.contents.values()))

    # --- what is asked again until it is answered -----------------------------------------------------------

    def _activate(self) -> None:
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        try:
            answer = self._fleet.ActivateNode(request)
        except httpx.HTTPStatusError as error:
            if self._server.root_certificates is not None or not is_not_activated(error.response):
                raise
            self._fleet.RegisterNode(RegisterNodeFleetRequest(public_key=self._public))
            answer = self._fleet.ActivateNode(request)
        self._node = Node(node_id=answer.node_id)

    def _rejoin(self) -> None:
        """See that the server has this client; one that is joined can't be activated again."""
        if self.node_id:
            try:
                if self._fleet.SendNodeHeartbeat(self._heartbeat()).success:
                    return
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.UNAUTHORIZED:
                    raise
        self._activate()

    def _take(self) -> tuple[PullMessagesResponse, dict[str, bytes]]:
        """Ask for the next message, and say which one came last: one that has got lost is given again."""
        request = PullMessagesRequest(node=self._node, message_ids=[self._taken])
        packed = self._poll._unary_unary(
            path=wire.TAKE, rpc_method="take", request=request, response_type=BytesList
        )
        return unpack(PullMessagesResponse, packed)

    def _give(self, metadata: Metadata, letter: Letter, seconds: float) -> None:
        if metadata.src_node_id != self.node_id:
            raise Dropped("the server has forgotten this client, and the run with it")
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[letter.head],
            message_object_trees=[letter.tree],
            clientapp_runtime_list=[seconds],
        )
        self._fleet._unary_unary(
            path=wire.GIVE,
            rpc_method="give",
            request=pack(request, letter.contents.values()),
            response_type=PushMessagesResponse,
        )

    def _beat(self) -> None:
        """Say that this client is alive; whether the server hears it is the other calls' business."""
        while not self._ended.wait(BEAT):
            with suppress(httpx.HTTPError, ValueError):
                self._pulse.SendNodeHeartbeat(self._heartbeat())

    def _heartbeat(self) -> SendNodeHeartbeatRequest:
        return SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)

    # --- when it is not answered ----------------------------------------------------------------------------

    def _steadily(self, step: Callable[[], T]) -> T:
        """Return what a step returns, when at last it does; raises what trying again can't mend."""
        for failures in itertools.count():
            try:
                if failures:
                    self._rejoin()
                result = step()
            except httpx.HTTPStatusError as error:
                self._turned_away(error, failures)
            except httpx.TransportError as error:
                self._lost(error, failures)
            except ValueError as error:  # what Flower's client raises for an answer that is not Flower's
                self._wait(f"{self._server.address} answers with something else ({error})", failures)
            else:
                if self._told:
                    self._tell(f"{self._server.address} answers again")
                self._told = ""
                return result
        raise AssertionError

    def _turned_away(self, error: httpx.HTTPStatusError, failures: int) -> None:
        """Wait if a server that refuses a request may answer it later; else raise `Refused` or `Dropped`."""
        response, reason = error.response, reason_of(error.response)
        joining = error.request.url.path.endswith(("activate-node", "register-node"))
        code, address = response.status_code, self._server.address
        if flower_code(response) == ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE:
            raise Refused(f"{address} has another version of Flower: {reason}")
        if code >= 500 or (code == httpx.codes.UNAUTHORIZED and not joining):
            self._wait(f"{address} answers {code} ({reason})", failures)
        elif code in (httpx.codes.CONFLICT, httpx.codes.TOO_MANY_REQUESTS):
            self._wait(f"{address} turns this client away: {reason}", failures, PAUSE_IF_TURNED_AWAY)
        elif joining and is_not_activated(response) and failures < MOST_ACTIVATIONS:
            self._wait(
                f"{address} turns this client away: its key is, or was until now, in use",
                failures,
                PAUSE_IF_TURNED_AWAY,
            )
        elif joining:
            self._not_admitted(response, reason)
        elif code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge(reason)
        else:
            raise Dropped(reason)

    def _not_admitted(self, response: httpx.Response, reason: str) -> NoReturn:
        address = self._server.address
        if response.status_code != httpx.codes.UNAUTHORIZED and not is_not_activated(response):
            raise Refused(f"{address} refuses this client: {reason}")
        if (off := clock_difference(response)) > CLOCK_TOLERANCE:
            raise Refused(
                f"{address} refuses this client: this machine's clock is {off:.0f} s off the server's"
            )
        raise Refused(f"this client's key is not registered at {address} ({reason})")

    def _lost(self, error: httpx.TransportError, failures: int) -> None:
        """Wait for a server that can't be reached; raise `Refused` where it is not the one, or speaks otherwise."""
        address, secure = self._server.address, self._server.root_certificates is not None
        problem = tls_problem(error)
        if problem is not None:
            raise Refused(f"{address}: {problem}")
        if not secure and not isinstance(error, httpx.ConnectError) and speaks_tls(address):
            raise Refused(f"{address} speaks TLS; --insecure is for a server without it")
        # The first failure may be a kept connection that the server has closed.
        self._wait(f"{address} is away ({error or type(error).__name__})" if failures else "", failures)

    def _wait(self, why: str, failures: int, pause: float = 0.0) -> None:
        if why and not self._told:
            self._tell(f"{why}; trying again")
            self._told = why
        time.sleep(pause or min(FIRST_PAUSE * 2 ** min(failures, 10), LAST_PAUSE))


class _Headers:
    """Says which Flower this is, which process, and that an empty answer may be held back."""

    def __init__(self) -> None:
        self._all = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())
        self._all[wire.INSTANCE] = secrets.token_hex(8)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers."""
        context.request.headers.update(self._all)
        if context.request.url.path == wire.TAKE:
            context.request.headers[wire.HOLD] = str(HOLD)
        return call_next(context)
