"""The relay over Flower's database: a message arrives complete, once, and at its node."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_object_id

from fedsim.deployment.server import message_relay
from fedsim.deployment.wire import TASK
from fedsim.flower.paths import COLLECT, GIVE, HEARTBEAT, SEND, TAKE
from fedsim.flower.wire_message import WireMessage, pack
from fedsim.runtime.spec import acting_as
from tests.support.deployment.post import Post, content, read

# Alembic's, of Flower's migrations.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


def test_messages_and_replies_go_there_and_back_and_leave_nothing(post: Post) -> None:
    one, two = post.nodes
    ids = post.send((one, b"for one"), (two, b"for two"))
    messages = {node: post.take(node) for node in (two, one)}
    assert {node: read(it) for node, it in messages.items() if it} == {one: b"for one", two: b"for two"}
    assert post.collect(*ids) == []
    for node, message in messages.items():
        post.answer(node, message, b"by %d" % node)
        assert post.take(node, got=message) is None
    replies = post.collect(*ids)
    assert {it.metadata.src_node_id: read(it) for it in replies} == {n: b"by %d" % n for n in (one, two)}
    assert {it.metadata.reply_to_message_id for it in replies} == set(ids)
    assert post.stored() == 0


def test_what_messages_share_is_sent_once(post: Post) -> None:
    one, two = post.nodes
    with acting_as(SUPERLINK_NODE_ID, post.run):
        shared = content(b"shared")
        encoded = WireMessage.encode([Message(shared, node, "train", ttl=100.0) for node in (one, two)])
    contents = {id_: it for reply in encoded for id_, it in reply.contents.items()}
    assert len(contents) == 4  # two messages, the content, its record
    assert len({id(it) for message in encoded for it in message.contents.values()}) == 4
    request = PushAppMessagesRequest(
        messages_list=[message.head for message in encoded],
        message_object_trees=[message.tree for message in encoded],
    )
    body = pack(request, contents.values()).SerializeToString()
    assert post.post(SEND, body, **{TASK: post.token})[0] == 200
    first = post.take(one)
    assert first is not None
    assert post.take(one, got=first) is None  # it has its own, and the other's is whole still
    second = post.take(two)
    assert second is not None
    assert read(first) == read(second) == b"shared"


def test_a_message_whose_answer_was_lost_is_given_again_to_the_same_process(post: Post) -> None:
    node = post.nodes[0]
    post.send((node, b"first"), (node, b"second"))
    first = post.take(node)
    again = post.take(node)
    assert first is not None
    assert again is not None
    assert read(first) == read(again)
    second = post.take(node, got=again)
    assert second is not None
    assert {read(first), read(second)} == {b"first", b"second"}
    assert post.take(node, instance="another") is None
    assert post.stored() == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it[:-1],
        lambda it: [],
        lambda it: [it[0], it[1], it[2] + b"x"],  # its hash is another
    ],
)
def test_a_reply_that_is_not_whole_is_not_there(
    post: Post, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    node = post.nodes[0]
    ids = post.send((node, b"question"))
    message = post.take(node)
    assert message is not None
    stored, reply = post.stored(), post.reply(node, message, b"answer")
    status, said = post.give(node, reply, change(list(reply.contents.values())))
    assert (status, json.loads(said)) == (400, {"error": "an object of the message is missing or damaged"})
    assert post.collect(*ids) == []
    assert post.stored() == stored
    assert post.give(node, reply)[0] == 200  # it may try again
    (reply,) = post.collect(*ids)
    assert read(reply) == b"answer"


def test_bytes_that_are_no_object_are_refused(post: Post) -> None:
    node = post.nodes[0]
    post.send((node, b"question"))
    message = post.take(node)
    assert message is not None
    reply = post.reply(node, message, b"answer")
    reply.tree.children[0].object_id = get_object_id(b"nonsense")
    status, said = post.give(node, reply, [b"nonsense", *reply.contents.values()])
    assert status == 400
    assert json.loads(said) == {"error": "an object of the message is missing or damaged"}


def test_a_reply_twice_is_one(post: Post) -> None:
    node = post.nodes[0]
    ids = post.send((node, b"question"))
    message = post.take(node)
    assert message is not None
    reply = post.reply(node, message, b"answer")
    assert [post.give(node, reply)[0] for _ in range(2)] == [200, 200]  # the answer to the first was lost
    assert [read(it) for it in post.collect(*ids)] == [b"answer"]


def test_messages_that_are_not_whole_are_not_sent(post: Post) -> None:
    node = post.nodes[0]
    with pytest.raises(AssertionError, match="an object of the message is missing"):
        post.send((node, b"first"), (node, b"second"), lose=1)
    assert post.take(node) is None
    assert post.stored() == 0


def test_replies_that_do_not_fit_into_an_answer_come_with_the_next(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_relay, "MANY", 25_000)
    node = post.nodes[0]
    ids = post.send(*[(node, b"%d" % number) for number in range(5)])
    got = None
    for _ in ids:
        got = post.take(node, got=got)
        assert got is not None
        post.answer(node, got, 10_000 * read(got))
    counts, found, waiting = [], [], set(ids)
    while waiting:
        replies = post.collect(*waiting)
        assert replies, f"no reply of {waiting} came"
        waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        counts.append(len(replies))
        found += replies
    assert counts == [2, 2, 1]
    assert sorted(map(read, found)) == [10_000 * (b"%d" % number) for number in range(5)]


def test_one_reply_may_be_larger_than_that(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_relay, "MANY", 10)
    node = post.nodes[0]
    ids = post.send((node, b"question"))
    post.answer(node, post.take(node), 1000 * b"x")
    assert len(post.collect(*ids)) == 1


def test_a_client_speaks_for_its_own_node_alone(post: Post) -> None:
    one, two = post.nodes
    post.send((one, b"question"))
    message = post.take(one)
    assert message is not None
    assert post.give(two, post.reply(one, message, b"x"))[0] == 403
    for path, request in (
        (TAKE, PullMessagesRequest(node=Node(node_id=one))),
        (HEARTBEAT, SendNodeHeartbeatRequest(node=Node(node_id=one), heartbeat_interval=30)),
    ):
        assert post.post(path, request.SerializeToString(), two)[0] == 401
        assert post.post(path, request.SerializeToString(), one)[0] == 200


@pytest.mark.parametrize("path", [SEND, COLLECT])
@pytest.mark.parametrize("token", ["", "x" * 64])
def test_a_server_app_needs_its_token(post: Post, path: str, token: str) -> None:
    body = b"" if path == COLLECT else pack(PushAppMessagesRequest()).SerializeToString()
    assert post.post(path, body, **{TASK: token})[0] == 401


@pytest.mark.parametrize("path", [TAKE, GIVE, SEND, COLLECT, HEARTBEAT])
def test_a_body_that_is_something_else_is_refused(post: Post, path: str) -> None:
    status, said = post.post(path, b"\xff\xff", post.nodes[0], **{TASK: post.token})
    assert status == 400
    assert json.loads(said)["error"].startswith("is no ")


def test_a_run_that_has_ended_has_no_messages_and_takes_no_replies(post: Post) -> None:
    node = post.nodes[0]
    post.send((node, b"first"), (node, b"second"))
    first = post.take(node)
    assert first is not None
    assert post.state.finish_task(post.task, SubStatus.STOPPED, "")
    assert post.take(node, got=first) is None
    status, said = post.give(node, post.reply(node, first, b"answer"))
    assert status == 403
    assert "code" in json.loads(said)  # Flower's own form
    with pytest.raises(AssertionError, match="401"):
        post.send((node, b"third"))


def test_a_fault_of_the_database_is_logged_and_said_without_details(
    post: Post, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(post.state, "get_message_ins", full)
    request = PullMessagesRequest(node=Node(node_id=post.nodes[0]))
    status, said = post.post(TAKE, request.SerializeToString(), post.nodes[0])
    assert status == 500
    assert b"disk" not in said
    assert "a message could not be relayed: OSError: the disk is full" in caplog.text


def test_everything_else_goes_its_own_way(post: Post) -> None:
    assert post.post("/v1/fleet/get-run", b"")[0] == 299
