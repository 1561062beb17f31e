"""A ServerApp's side of Flower's Runtime API: whole messages to the server, and whole replies back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from flwr.proto.recorddict_pb2 import BytesList
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.serverapp import Grid
from google.protobuf.message import Message as Protobuf  # type: ignore[import-untyped]

from fedsim.flower.paths import COLLECT, SEND
from fedsim.flower.wire_message import WireMessage, messages_in, pack

if TYPE_CHECKING:  # they take a second to import, and only a server process has loaded them
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.superlink.grid import HttpGrid

T = TypeVar("T", bound=Protobuf)


class RuntimeApi:
    """Requests of a ServerApp; each carries the token of its task.

    Their connection is that of the Grid which Flower gives to a ServerApp that a SuperLink has started. Every method
    raises `httpx.HTTPStatusError` for a refusal.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = cast("HttpGrid", grid)

    def send(self, messages: Sequence[WireMessage]) -> list[str]:
        """Send messages by one request; return their ids. An object that several share is sent once."""
        request = PushAppMessagesRequest(
            messages_list=[message.head for message in messages],
            message_object_trees=[message.tree for message in messages],
        )
        contents = {id_: content for message in messages for id_, content in message.contents.items()}
        answer = self._post(SEND, pack(request, contents.values()), PushAppMessagesResponse)
        return list(answer.message_ids)

    def collect(self, message_ids: Iterable[str], headers: dict[str, str]) -> list[WireMessage]:
        """Return the replies to some messages that the server has; `headers` stay for later requests."""
        self._http._client.headers.update(headers)
        packed = self._post(COLLECT, PullAppMessagesRequest(message_ids=message_ids), BytesList)
        return messages_in(PullAppMessagesResponse, packed)

    @property
    def _http(self) -> RuntimeHttpClient:
        return self._grid._runtime_client  # connects on first use

    def _post(self, path: str, request: Protobuf, kind: type[T]) -> T:
        return self._http._unary_unary(path=path, rpc_method=path, request=request, response_type=kind)
