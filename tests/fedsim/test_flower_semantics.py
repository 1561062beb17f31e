"""Semantics of messages: each rule is tested on Flower's Grid and on fedsim's."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedsim.runtime import AppSpec, LocalGrid, SequentialGrid
from tests.support.flower_fleet import flower_fleet
from tests.support.semantics_app import app
from tests.support.waiting import wait_for

CLIENTS = 60  # each test takes some that no other has used
SERVER = 1


@dataclass
class Fleet:
    """A grid, the node of each client, and which client is next."""

    name: str
    grid: Grid
    nodes: list[int]
    fresh: Iterator[int] = field(default_factory=itertools.count)

    def node(self) -> int:
        """Return the node of a client that no test has used."""
        return self.nodes[next(self.fresh)]

    def ask(self, *messages: Message, timeout: float | None = 30.0) -> list[Message]:
        return list(self.grid.send_and_receive(messages, timeout=timeout))

    def pull(self, *ids: str) -> list[Message]:
        """Pull until there is something for each id."""
        replies: list[Message] = []
        waiting = set(ids)
        end = time.monotonic() + 30
        while waiting and time.monotonic() < end:
            came = list(self.grid.pull_messages(waiting))
            replies += came
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            time.sleep(0.02)
        return replies


@pytest.fixture(scope="module", params=["flower", "sequential", "local"])
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    spec = AppSpec(CLIENTS, {}, "tests.support.semantics_app:app")
    if request.param == "flower":
        with flower_fleet(app, CLIENTS) as (grid, nodes):
            yield Fleet("flower", grid, nodes)
    else:
        with SequentialGrid(spec) if request.param == "sequential" else LocalGrid(spec, 2) as ours:
            yield Fleet(request.param, ours, list(ours.client_nodes().values()))


def query(node: int, action: str = "", **options: Any) -> Message:
    return Message(RecordDict(), node, f"query.{action}" if action else "query", **options)


def told(reply: Message) -> dict[str, Any]:
    return dict(reply.content["told"])


def is_unavailable(reply: Message, message_id: str) -> bool:
    """Say whether a message is Flower's error for a message that is unknown, gone or over."""
    metadata = reply.metadata
    return (
        reply.has_error()
        and reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
        and str(reply.error.reason).startswith("Error: Message Unavailable")
        and (metadata.src_node_id, metadata.dst_node_id, metadata.ttl) == (SERVER, SERVER, 0)
        and (metadata.message_type, metadata.reply_to_message_id) == ("system", message_id)
    )


# --- pushing ------------------------------------------------------------------------------------------------


def test_a_reply_names_its_message_and_its_node(fleet: Fleet) -> None:
    message = query(fleet.node(), group_id="7", ttl=100.0)
    (reply,) = fleet.ask(message)
    assert message.metadata.message_id
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (message.metadata.dst_node_id, SERVER)
    assert (reply.metadata.group_id, reply.metadata.message_type) == ("7", "query")
    assert 0 < reply.metadata.ttl <= 100.0
    assert reply.metadata.run_id == message.metadata.run_id


def test_nodes_are_all_there(fleet: Fleet) -> None:
    assert set(fleet.grid.get_node_ids()) == set(fleet.nodes)
    assert {node.node_id for node in fleet.grid.get_nodes()} == set(fleet.nodes)
    assert SERVER not in fleet.nodes


def test_a_message_to_no_node_is_dropped_and_the_others_are_not(fleet: Fleet) -> None:
    unknown = max(fleet.nodes) - 1 if fleet.name == "flower" else max(fleet.nodes) + 1
    unknown = unknown if unknown not in fleet.nodes else 2**40
    node = fleet.node()
    ids = list(fleet.grid.push_messages([query(unknown), query(node), query(0)]))
    assert len(ids) == 1
    (reply,) = fleet.pull(*ids)
    assert reply.metadata.src_node_id == node
    assert fleet.ask(query(unknown)) == []


def test_a_message_to_the_server_itself_has_no_node(fleet: Fleet) -> None:
    message = query(SERVER, group_id="g")
    (reply,) = fleet.ask(message)
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE
    assert (reply.metadata.src_node_id, reply.metadata.group_id) == (SERVER, "g")
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


def test_an_invalid_message_is_an_error(fleet: Fleet) -> None:
    node = fleet.node()
    message = query(node)
    (reply,) = fleet.ask(message)
    for wrong in (query(node, ttl=-1.0), reply, message):  # no time; a reply; delivered before
        with pytest.raises(ValueError, match="Invalid message"):
            list(fleet.grid.push_messages([wrong]))


def test_an_expired_message_is_dropped(fleet: Fleet) -> None:
    node = fleet.node()
    message = query(node, ttl=0.05)
    time.sleep(0.1)
    assert list(fleet.grid.push_messages([message])) == []
    assert fleet.ask(message) == []
    assert told(*fleet.ask(query(node)))["queries"] == 1  # no client has seen it


def test_no_messages(fleet: Fleet) -> None:
    assert list(fleet.grid.push_messages([])) == []
    assert list(fleet.grid.pull_messages([])) == []
    assert fleet.ask() == []


# --- pulling ------------------------------------------------------------------------------------------------


def test_a_reply_is_pulled_once(fleet: Fleet) -> None:
    ids = list(fleet.grid.push_messages([query(fleet.node()), query(fleet.node())]))
    replies = fleet.pull(*ids)
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids)
    assert not any(reply.has_error() for reply in replies)
    for _ in range(2):
        again = list(fleet.grid.pull_messages(ids[:1]))
        assert len(again) == 1
        assert is_unavailable(again[0], ids[0])


def test_an_id_that_stands_twice_is_pulled_once(fleet: Fleet) -> None:
    (message_id,) = fleet.grid.push_messages([query(fleet.node())])
    replies = wait_for(lambda: list(fleet.grid.pull_messages([message_id, message_id])))
    assert [reply.has_content() for reply in replies] == [True]


def test_an_unknown_id_is_unavailable(fleet: Fleet) -> None:
    (reply,) = fleet.grid.pull_messages(["no-such-id"])
    assert is_unavailable(reply, "no-such-id")


def test_an_unanswered_message_has_no_reply_yet_and_stays(fleet: Fleet) -> None:
    if fleet.name == "sequential":
        pytest.skip("answers while it pushes")
    (message_id,) = fleet.grid.push_messages([query(fleet.node(), "slow")])
    assert list(fleet.grid.pull_messages([message_id])) == []
    (reply,) = fleet.pull(message_id)
    assert reply.has_content()


def test_a_reply_that_is_pulled_after_the_messages_time_is_lost(fleet: Fleet) -> None:
    node = fleet.node()
    (message_id,) = fleet.grid.push_messages([query(node, ttl=1.0)])
    time.sleep(1.1)
    (reply,) = fleet.grid.pull_messages([message_id])
    assert is_unavailable(reply, message_id)


def test_an_expired_reply_is_lost(fleet: Fleet) -> None:
    message = query(fleet.node(), "short", group_id="g")
    (message_id,) = fleet.grid.push_messages([message])
    time.sleep(1.5)
    (reply,) = fleet.grid.pull_messages([message_id])
    assert reply.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == (message_id, SERVER)
    assert (reply.metadata.message_type, reply.metadata.group_id) == ("query.short", "g")
    (again,) = fleet.grid.pull_messages([message_id])
    assert is_unavailable(again, message_id)


# --- waiting ------------------------------------------------------------------------------------------------


def test_late_replies_can_be_pulled_later(fleet: Fleet) -> None:
    node = fleet.node()
    message = query(node, "slow")
    assert fleet.ask(message, timeout=0.2) == []
    (reply,) = fleet.pull(message.metadata.message_id)
    assert reply.has_content()
    assert told(*fleet.ask(query(node)))["queries"] == 2


def test_without_time_to_wait_the_message_is_sent_all_the_same(fleet: Fleet) -> None:
    for timeout in (0.0, -1.0):
        message = query(fleet.node())
        assert fleet.ask(message, timeout=timeout) == []
        (reply,) = fleet.pull(message.metadata.message_id)
        assert told(reply)["queries"] == 1


def test_waiting_ends_with_the_messages_time(fleet: Fleet) -> None:
    node = fleet.node()
    message = query(node, "slow", ttl=0.4)
    (reply,) = fleet.ask(message, timeout=None)
    assert is_unavailable(reply, message.metadata.message_id)
    assert told(*fleet.ask(query(node)))["queries"] == 2  # the client did its work, and its state counts


def test_a_late_client_does_not_affect_the_replies_of_others(fleet: Fleet) -> None:
    if fleet.name != "local":
        pytest.skip("one client at a time")
    fast, slow = fleet.node(), fleet.node()
    replies = fleet.ask(query(slow, "slow", ttl=0.5), query(fast))
    assert {reply.metadata.src_node_id for reply in replies} == {SERVER, fast}


# --- the client's side --------------------------------------------------------------------------------------


def test_states_stay_and_are_each_nodes_own(fleet: Fleet) -> None:
    one, other = fleet.node(), fleet.node()
    for expected in (1, 2, 3):
        assert told(*fleet.ask(query(one)))["queries"] == expected
    reply = told(*fleet.ask(query(other)))
    assert (reply["queries"], reply["begun"]) == (1, 1)
    assert told(*fleet.ask(query(one)))["ended"] == 3


def test_messages_to_one_node_are_answered_in_order(fleet: Fleet) -> None:
    node = fleet.node()
    ids = list(fleet.grid.push_messages([query(node) for _ in range(4)]))
    replies = {reply.metadata.reply_to_message_id: told(reply)["queries"] for reply in fleet.pull(*ids)}
    assert [replies[message_id] for message_id in ids] == [1, 2, 3, 4]


@pytest.mark.parametrize("action", ["fail", "no_handler"])
def test_an_exception_in_a_client_is_an_error_and_leaves_its_state_unchanged(
    fleet: Fleet, action: str
) -> None:
    node = fleet.node()
    fleet.ask(query(node))
    message = query(node, action)
    (reply,) = fleet.ask(message)
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    expected = {"fail": "out of luck", "no_handler": "No query function registered with name 'no_handler'"}
    assert expected[action] in str(reply.error.reason)
    assert reply.metadata.src_node_id == node
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    after = told(*fleet.ask(query(node)))
    assert (after["queries"], after["begun"], after["ended"]) == (2, 2, 1)


def test_a_client_that_answers_with_an_error_keeps_its_new_state(fleet: Fleet) -> None:
    node = fleet.node()
    (reply,) = fleet.ask(query(node, "decline"))
    assert (reply.error.code, reply.error.reason) == (ErrorCode.MOD_FAILED_PRECONDITION, "declined")
    assert told(*fleet.ask(query(node)))["queries"] == 2


def test_a_client_can_not_change_the_run_config(fleet: Fleet) -> None:
    node = fleet.node()
    (reply,) = fleet.ask(query(node, "reconfigure"))
    assert reply.has_error()
    assert told(*fleet.ask(query(node)))["queries"] == 1


@pytest.mark.parametrize("action", ["nothing", "echo"])
def test_an_invalid_reply_never_arrives(fleet: Fleet, action: str) -> None:
    (reply,) = fleet.ask(query(fleet.node(), action, ttl=2.0))  # Flower says so when its time is over
    assert reply.has_error()


def test_a_clients_changes_of_its_message_stay_local(fleet: Fleet) -> None:
    content = RecordDict(
        {"config": ConfigRecord({"number": 1}), "arrays": ArrayRecord({"w": Array(np.ones(3))})}
    )
    for _ in range(2):
        replies = fleet.ask(*(Message(content, fleet.node(), "train") for _ in range(3)))
        assert len(replies) == 3
        for reply in replies:
            assert dict(reply.content["came"]) == {"number": 1}
            assert reply.content["arrays"]["w"].numpy().tolist() == [1.0, 1.0, 1.0]
    assert sorted(content) == ["arrays", "config"]
    assert dict(content["config"]) == {"number": 1}
    assert content["arrays"]["w"].numpy().tolist() == [1.0, 1.0, 1.0]
