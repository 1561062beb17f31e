"""Long polling around an app like Flower's: a waiting client gets a message as soon as it arrives."""

import asyncio
import time
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import BytesList
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse, PushAppMessagesRequest

from fedsim.deployment.server.asgi import read_body
from fedsim.deployment.server.long_poll import LongPoll
from fedsim.flower.paths import COLLECT, GIVE, SEND, TAKE
from fedsim.flower.wire_message import pack, unpack


class Mailbox:
    """Keeps messages for nodes, and replies; counts how often it is asked."""

    def __init__(self) -> None:
        self.messages: dict[int, list[Message]] = {}
        self.replies: list[Message] = []
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(scope, receive, 10**6)
        status, content = 200, b""
        if scope["path"] == SEND:
            request, _ = unpack(PushAppMessagesRequest, BytesList.FromString(body))
            for message in request.messages_list:
                self.messages.setdefault(message.metadata.dst_node_id, []).append(message)
        elif scope["path"] == GIVE:
            reply, _ = unpack(PushMessagesRequest, BytesList.FromString(body))
            self.replies.extend(reply.messages_list)
        elif scope["path"] == COLLECT:
            self.asked += 1
            if self.replies:
                content = pack(PullAppMessagesResponse(messages_list=self.replies)).SerializeToString()
            self.replies = []
        else:
            self.asked += 1
            node = PullMessagesRequest.FromString(body).node.node_id
            status = 401 if node == 0 else 200
            if node in self.messages:
                answer = PullMessagesResponse(messages_list=self.messages.pop(node))
                content = pack(answer).SerializeToString()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content})


class Caller:
    """Speaks to the app; `hang_up` ends what it waits for."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.hang_up = asyncio.Event()

    async def post(self, path: str, request: Any, hold: str | None = None) -> tuple[int, bytes] | None:
        """Return status and body; None where there was no answer."""
        headers = [] if hold is None else [(b"fedsim-hold", hold.encode())]
        body, sent = [request.SerializeToString()], []

        async def receive() -> Any:
            if body:
                return {"type": "http.request", "body": body.pop()}
            await self.hang_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": "http", "path": path, "headers": headers}, receive, send)
        return (sent[0]["status"], b"".join(m["body"] for m in sent[1:])) if sent else None

    async def pull(self, node: int, hold: str | None = "20") -> list[Message]:
        answer = await self.post(TAKE, PullMessagesRequest(node=Node(node_id=node)), hold)
        assert answer is not None
        return list(unpack(PullMessagesResponse, BytesList.FromString(answer[1]))[0].messages_list)

    async def collect(self) -> list[Message]:
        answer = await self.post(COLLECT, PullAppMessagesRequest(), "20")
        assert answer is not None
        return list(unpack(PullAppMessagesResponse, BytesList.FromString(answer[1]))[0].messages_list)


def to(node: int) -> BytesList:
    return pack(PushAppMessagesRequest(messages_list=[Message(metadata=Metadata(dst_node_id=node))]))


async def settle() -> None:
    """Let all tasks come as far as they can."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_a_client_hears_of_its_message_and_others_are_not_asked_for() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        caller = Caller(polling := LongPoll(mailbox))
        pulls = {node: asyncio.create_task(caller.pull(node)) for node in (1, 2)}
        await settle()
        assert mailbox.asked == 2
        await caller.post(SEND, to(2))
        assert len(await pulls[2]) == 1
        assert mailbox.asked == 3
        assert not pulls[1].done()
        polling.close()
        assert await pulls[1] == []

    asyncio.run(scenario())


def test_a_server_app_hears_of_a_reply() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        caller = Caller(LongPoll(mailbox))
        pull = asyncio.create_task(caller.collect())
        await settle()
        assert not pull.done()
        await caller.post(GIVE, pack(PushMessagesRequest(messages_list=[Message()])))
        assert len(await pull) == 1

    asyncio.run(scenario())


def test_a_server_app_hears_of_what_flower_makes_itself() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        caller = Caller(LongPoll(mailbox))
        pull = asyncio.create_task(caller.collect())
        await settle()
        mailbox.replies.append(Message())
        assert len(await pull) == 1

    asyncio.run(scenario())


def test_a_message_that_comes_while_flower_is_asked_is_not_missed() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        pushed: list[bool] = []

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            kept: list[Any] = []

            async def keep(message: Any) -> None:
                kept.append(message)

            await mailbox(scope, receive, keep)
            if scope["path"] == TAKE and not pushed:
                pushed.append(True)  # it comes after Flower has looked, and before its answer is here
                await caller.post(SEND, to(1))
            for message in kept:
                await send(message)

        caller = Caller(LongPoll(slow))
        assert len(await caller.pull(1)) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("hold", [None, "0", "-1", "nan", "inf", "x", "0.01"])
def test_requests_without_long_polling_are_answered_at_once(hold: str | None) -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        assert await Caller(LongPoll(mailbox)).pull(1, hold) == []
        assert mailbox.asked in (1, 2)

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_an_empty_answer_goes_out_once_the_time_is_over() -> None:
    async def scenario() -> float:
        began = time.monotonic()
        assert await Caller(LongPoll(Mailbox())).pull(1, "0.2") == []
        return time.monotonic() - began

    assert asyncio.run(scenario()) >= 0.2


def test_a_closed_connection_ends_the_wait() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        caller = Caller(LongPoll(mailbox))
        pull = asyncio.create_task(caller.post(TAKE, PullMessagesRequest(node=Node(node_id=1)), "20"))
        await settle()
        caller.hang_up.set()
        assert await pull is None
        assert mailbox.asked == 1
        caller.hang_up.clear()
        await caller.post(SEND, to(1))
        assert len(await caller.pull(1)) == 1  # nobody has taken it

    asyncio.run(scenario())


def test_a_refusal_is_not_held() -> None:
    async def scenario() -> None:
        answer = await Caller(LongPoll(Mailbox())).post(TAKE, PullMessagesRequest(), "20")
        assert answer is not None
        assert answer[0] == 401

    asyncio.run(asyncio.wait_for(scenario(), 10))
