"""A client's side of Flower's Fleet API, over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
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
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedsim.flower.constants import HEARTBEAT_INTERVAL
from fedsim.flower.http import Prepared
from fedsim.flower.keys import public_pem
from fedsim.flower.paths import GIVE, TAKE
from fedsim.flower.runs import Run
from fedsim.flower.wire_message import WireMessage, messages_in, pack


class FleetApi:
    """Requests of one node, each signed with the node's key.

    Every method raises `httpx.HTTPStatusError` for a refusal, `httpx.TransportError` where nothing answers, and
    `ValueError` for an answer that is not Flower's.

    `headers` returns fedsim's own headers of a request to a path; `verify` checks the server's certificate (False: no
    TLS); `timeout` is each request's, in seconds.
    """

    def __init__(
        self,
        url: str,
        key: ec.EllipticCurvePrivateKey,
        headers: Callable[[str], Mapping[str, str]],
        verify: ssl.SSLContext | bool,
        timeout: float,
    ) -> None:
        version = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())

        def prepare(request: httpx.Request) -> None:
            request.headers.update(version)
            request.headers.update(headers(request.url.path))

        interceptors = (Prepared(prepare), NodeAuthHttpInterceptor(key, key.public_key()))
        self._http = FleetHttpClient(url, interceptors=interceptors, verify=verify, timeout=timeout)
        self._public = public_pem(key)

    def register(self) -> None:
        """Make the node's key known to a server that takes any key."""
        self._http.RegisterNode(RegisterNodeFleetRequest(public_key=self._public))

    def activate(self) -> int:
        """Bring the node online; return its id."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_INTERVAL)
        return int(self._http.ActivateNode(request).node_id)

    def deactivate(self, node: int) -> None:
        """Take the node offline."""
        self._http.DeactivateNode(DeactivateNodeRequest(node_id=node))

    def heartbeat(self, node: int) -> bool:
        """Say that the node is online; return whether the server has it online."""
        request = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=HEARTBEAT_INTERVAL)
        return bool(self._http.SendNodeHeartbeat(request).success)

    def run(self, node: int, run_id: int) -> Run:
        """Return a run."""
        return run_from_proto(self._http.GetRun(GetRunRequest(node=Node(node_id=node), run_id=run_id)).run)

    def bundle(self, node: int, run: Run) -> bytes:
        """Return a run's bundle (FAB)."""
        request = GetFabRequest(node=Node(node_id=node), hash_str=run.fab_hash, run_id=run.run_id)
        return fab_from_proto(self._http.GetFab(request).fab).content

    def take(self, node: int, last: str) -> WireMessage | None:
        """Return the next message of a node; None: there is none.

        `last` is the id of the last message that has arrived, empty at first: the server repeats one that was lost.
        """
        request = PullMessagesRequest(node=Node(node_id=node), message_ids=[last])
        packed = self._http._unary_unary(
            path=TAKE, rpc_method="take", request=request, response_type=BytesList
        )
        return next(iter(messages_in(PullMessagesResponse, packed)), None)

    def give(self, node: int, reply: WireMessage, seconds: float) -> None:
        """Send a reply that took the ClientApp `seconds`."""
        request = PushMessagesRequest(
            node=Node(node_id=node),
            messages_list=[reply.head],
            message_object_trees=[reply.tree],
            clientapp_runtime_list=[seconds],
        )
        self._http._unary_unary(
            path=GIVE,
            rpc_method="give",
            request=pack(request, reply.contents.values()),
            response_type=PushMessagesResponse,
        )
