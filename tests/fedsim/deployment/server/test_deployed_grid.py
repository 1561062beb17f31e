"""The Grid of a server process over a message relay: messages and replies, in as few requests as possible."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.superlink.grid import HttpGrid

from fedsim.deployment.content_codec import decode_content, encode_content
from fedsim.deployment.wire import TASK
from fedsim.flower.paths import COLLECT, SEND
from fedsim.flower.wire_message import WireMessage
from fedsim.runtime.spec import acting_as
from fedsim.server import deployed_grid
from fedsim.server.deployed_grid import DeployedGrid
from tests.support.deployment.post import Post, content, read

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


class Wire:
    """Carries a grid's requests to a relay, and notes their paths and sizes; `reply` is called before each."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.requests: list[tuple[str, int]] = []
        self._client = SimpleNamespace(headers={})
        self.reply = lambda: None

    def _unary_unary(self, path: str, rpc_method: str, request: Any, response_type: Any) -> Any:
        self.reply()
        body = request.SerializeToString()
        self.requests.append((path, len(body)))
        status, answer = self.post.post(path, body, **{TASK: self.post.token})
        assert status == 200
        return response_type.FromString(answer)


@pytest.fixture
def wire(post: Post) -> Iterator[Wire]:
    with acting_as(SUPERLINK_NODE_ID, post.run):
        yield Wire(post)


@pytest.fixture
def grid(wire: Wire) -> DeployedGrid:
    return DeployedGrid(cast(HttpGrid, SimpleNamespace(_runtime_client=wire)), ttl=100.0)


def paths(wire: Wire) -> list[str]:
    return [path for path, _ in wire.requests]


def test_a_round_is_one_request_there_and_one_back(post: Post, wire: Wire, grid: DeployedGrid) -> None:
    model = content(1_000_000 * b"m")
    messages = [Message(model, node, "train", ttl=1e6) for node in post.nodes]

    def reply() -> None:
        for node in post.nodes:
            if (message := post.take(node)) is not None:
                assert message.metadata.ttl == 100.0
                assert decode_content(message.content) == model
                with acting_as(node, post.run):
                    said = Message(encode_content(content(b"from %d" % node)), reply_to=message)
                (reply,) = WireMessage.encode([said])
                assert post.give(node, reply)[0] == 200

    wire.reply = reply
    replies = grid.send_and_receive(messages, timeout=60.0)
    assert {it.metadata.src_node_id: read(it) for it in replies} == {n: b"from %d" % n for n in post.nodes}
    assert paths(wire) == [SEND, COLLECT]
    assert wire.requests[0][1] < 1_010_000


def test_messages_with_contents_of_their_own_are_sent_in_requests_that_are_not_too_large(
    post: Post, wire: Wire, grid: DeployedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed_grid, "MANY", 30_000)
    node = post.nodes[0]
    sizes = [10_000, 10_000, 10_000, 50_000, 10, 10]
    messages = [Message(content(size * bytes([n])), node, "train") for n, size in enumerate(sizes)]
    ids = list(grid.push_messages(messages))
    assert len(set(ids)) == len(messages)
    assert paths(wire) == 4 * [SEND]
    assert [size <= 30_000 for _, size in wire.requests] == [True, True, False, True]
    got, found = None, []
    for _ in sizes:
        got = post.take(node, got=got)
        assert got is not None
        found.append(len(read(Message(decode_content(got.content), node, "train"))))
    assert post.take(node, got=got) is None
    assert sorted(found) == sorted(sizes)


def test_the_wait_for_replies_ends_at_the_timeout(post: Post, wire: Wire, grid: DeployedGrid) -> None:
    one, two = post.nodes

    def reply() -> None:
        if (message := post.take(one)) is not None:
            with acting_as(one, post.run):
                said = Message(encode_content(content(b"here")), reply_to=message)
            post.give(one, *WireMessage.encode([said]))

    wire.reply = reply
    began = time.monotonic()
    replies = grid.send_and_receive([Message(content(b""), n, "train") for n in (one, two)], timeout=0.5)
    assert [it.metadata.src_node_id for it in replies] == [one]
    assert time.monotonic() - began >= 0.5


def test_a_reply_whose_content_is_not_encoded_is_an_error_of_its_client(
    post: Post, wire: Wire, grid: DeployedGrid
) -> None:
    one, two = post.nodes
    ids = list(grid.push_messages([Message(content(b""), node, "train") for node in (one, two)]))
    for node in (one, two):
        message = post.take(node)
        assert message is not None
        reply = post.reply(node, message, b"not encoded, by %d" % node)
        if node == two:  # the objects are no message, though each is one
            reply.tree.CopyFrom(reply.tree.children[0])
            reply.head.metadata.message_id = reply.tree.object_id
        assert post.give(node, reply)[0] == 200
    replies = list(grid.pull_messages(ids))
    assert {it.metadata.src_node_id for it in replies} == {one, two}
    assert {it.metadata.reply_to_message_id for it in replies} == set(ids)
    assert all(it.has_error() for it in replies)
    reasons = sorted(it.error.reason for it in replies)
    assert reasons == ["is no message, but RecordDict", "the message's content is not one encoded record"]
