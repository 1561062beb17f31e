"""A message relay over Flower's own database, a run whose ServerApp is under way, and its clients."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import BytesList
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse, PushAppMessagesRequest
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType

from fedsim.deployment.server.message_relay import MessageRelay
from fedsim.deployment.wire import INSTANCE, NODE, TASK
from fedsim.flower.message_store import MessageStore
from fedsim.flower.paths import COLLECT, GIVE, SEND, TAKE
from fedsim.flower.wire_message import WireMessage, pack, unpack
from fedsim.runtime.spec import acting_as


def content(of: bytes) -> RecordDict:
    return RecordDict({"it": ConfigRecord({"it": of})})


def read(message: Message) -> bytes:
    it = message.content.config_records["it"]["it"]
    assert isinstance(it, bytes)
    return it


class Post:
    """A relay, a run whose ServerApp is under way, and nodes that have joined."""

    def __init__(self, state: Any, nodes: int) -> None:
        self.state = state
        self.relay = MessageRelay(elsewhere, MessageStore(state))
        self.stored_before = len(state.object_store)
        self.nodes = []
        for _ in range(nodes):
            node = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, secrets.token_bytes(8), 0)
            assert self.state.activate_node(node, 1000)
            self.nodes.append(node)
        run = [None, None, "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP]
        self.run = self.state.create_run(*run)
        (task,) = self.state.get_tasks(run_ids=[self.run])
        self.task = task.task_id
        self.token = self.state.claim_task(self.task)
        assert self.state.activate_task(self.task)

    def post(self, path: str, body: bytes, node: int | None = None, **headers: str) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request, from a node that was authenticated."""
        scope = {
            "type": "http",
            "path": path,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.relay(scope | ({} if node is None else {NODE: node}), receive, send))
        return sent[0]["status"], b"".join(part["body"] for part in sent[1:])

    def send(self, *messages: tuple[int, bytes], lose: int = 0, token: str | None = None) -> list[str]:
        """Send messages to nodes by one request, but for the last `lose` objects; return their ids."""
        with acting_as(SUPERLINK_NODE_ID, self.run):
            encoded = WireMessage.encode(
                [Message(content(it), node, "train", ttl=100.0) for node, it in messages]
            )
        request = PushAppMessagesRequest(
            messages_list=[message.head for message in encoded],
            message_object_trees=[message.tree for message in encoded],
        )
        contents = [it for message in encoded for it in message.contents.values()]
        body = pack(request, contents[: len(contents) - lose]).SerializeToString()
        status, answer = self.post(SEND, body, **{TASK: self.token if token is None else token})
        assert status == 200, (status, answer)
        return [message.tree.object_id for message in encoded]

    def take(self, node: int, instance: str = "a", got: Message | None = None) -> Message | None:
        request = PullMessagesRequest(node=Node(node_id=node))
        if got is not None:
            request.message_ids.append(got.metadata.message_id)
        status, answer = self.post(TAKE, request.SerializeToString(), node, **{INSTANCE: instance})
        assert status == 200
        head, contents = unpack(PullMessagesResponse, BytesList.FromString(answer))
        if not head.messages_list:
            assert not answer
            return None
        return WireMessage(head.messages_list[0], head.message_object_trees[0], contents).decode()

    def reply(self, node: int, message: Message, it: bytes) -> WireMessage:
        with acting_as(node, self.run):
            (reply,) = WireMessage.encode([Message(content(it), reply_to=message)])
        return reply

    def give(
        self, node: int, reply: WireMessage, objects: Sequence[bytes] | None = None
    ) -> tuple[int, bytes]:
        """Send a reply, with other objects maybe."""
        request = PushMessagesRequest(
            node=Node(node_id=node),
            messages_list=[reply.head],
            message_object_trees=[reply.tree],
            clientapp_runtime_list=[0.1],
        )
        packed = pack(request, reply.contents.values() if objects is None else objects)
        return self.post(GIVE, packed.SerializeToString(), node)

    def answer(self, node: int, message: Message | None, it: bytes) -> None:
        """Reply to a message that came."""
        assert message is not None
        assert self.give(node, self.reply(node, message, it))[0] == 200

    def collect(self, *ids: str) -> list[Message]:
        request = PullAppMessagesRequest(message_ids=ids)
        status, answer = self.post(COLLECT, request.SerializeToString(), **{TASK: self.token})
        assert status == 200
        replies, contents = unpack(PullAppMessagesResponse, BytesList.FromString(answer))
        pairs = zip(replies.messages_list, replies.message_object_trees, strict=True)
        return [WireMessage(head, tree, contents).decode() for head, tree in pairs]

    def stored(self) -> int:
        """Return how many objects are kept of this run."""
        return len(self.state.object_store) - self.stored_before


async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
    """Stand for the rest of Flower's app."""
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b""})
