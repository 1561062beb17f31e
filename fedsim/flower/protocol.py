"""The protobuf messages of the requests that carry whole messages (`fedsim.flower.paths`), and of heartbeats."""

from __future__ import annotations

from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.recorddict_pb2 import BytesList
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse, PushAppMessagesRequest

__all__ = [
    "BytesList",
    "PullAppMessagesRequest",
    "PullAppMessagesResponse",
    "PullMessagesRequest",
    "PushAppMessagesRequest",
    "PushMessagesRequest",
    "SendNodeHeartbeatRequest",
]
