"""What a client may send in the place of replies, how large, how often, and how many requests at a time."""

import asyncio
import base64
import json
import logging
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedsim.deployment.credential import Verifier
from fedsim.deployment.server import auth as authentication
from fedsim.deployment.server import refusal_log, replies
from fedsim.deployment.server.auth import PUBLIC_KEY, SIGNATURE, TIMESTAMP, Auth, Credentials
from fedsim.deployment.server.clients import Presence, Registration
from fedsim.flower.keys import public_pem
from fedsim.flower.paths import GIVE, TAKE
from tests.support.deployment.post import Post

# Alembic's, of Flower's migrations.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


def test_a_reply_to_no_message_of_the_client_is_refused_and_costs_the_others_nothing(post: Post) -> None:
    one, two = post.nodes
    ids = post.send((one, b"for one"), (two, b"for two"))
    mine, theirs = post.take(one), post.take(two)
    assert mine is not None
    assert theirs is not None
    stored = post.stored()
    foreign, unknown = post.reply(one, theirs, b"x"), post.reply(one, mine, b"x")
    foreign.head.metadata.src_node_id = one
    unknown.head.metadata.reply_to_message_id = 64 * "0"
    for reply in (foreign, unknown):
        status, said = post.give(one, reply)
        assert status == 404
        assert json.loads(said)["error"] == "the reply is to no message that waits for one of this client"
    assert post.stored() == stored
    post.answer(two, theirs, b"of two")
    assert post.relay.reply_limit(one) >= replies.BESIDE
    assert sum(not reply.has_error() for reply in post.collect(*ids)) == 1


@pytest.mark.parametrize("name", ["src_node_id", "reply_to_message_id"])
def test_a_reply_that_names_another_client_or_message_inside_is_its_own_clients_failure(
    post: Post, name: str
) -> None:
    one, two = post.nodes
    ids = post.send((one, b"for one"), (two, b"for two"))
    mine, theirs = post.take(one), post.take(two)
    assert mine is not None
    assert theirs is not None
    other = post.reply(two, theirs, b"x") if name == "src_node_id" else post.reply(one, theirs, b"x")
    # Of what the server stores it reads the head alone.
    other.head.metadata.src_node_id = one
    other.head.metadata.reply_to_message_id = mine.metadata.message_id
    assert post.give(one, other)[0] == 200
    with pytest.raises(ValueError, match="its head is that of another message"):
        post.collect(*ids)


def test_a_reply_again_and_again_is_refused(post: Post) -> None:
    node = post.nodes[0]
    ids = post.send((node, b"question"))
    message = post.take(node)
    assert message is not None
    reply = post.reply(node, message, b"answer")
    statuses = [post.give(node, reply)[0] for _ in range(replies.AGAIN + 3)]
    assert statuses == [200] * (replies.AGAIN + 1) + [404] * 2
    assert len(post.collect(*ids)) == 1


def test_a_reply_may_be_a_few_times_its_runs_largest_message(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = replies.Replies()
    assert waited.limit(1) == waited.limit(None) == replies.BESIDE
    waited.await_reply(1, "large", run=7, size=1000)
    waited.replied(1, "large")
    waited.await_reply(2, "small", run=7, size=10)
    waited.await_reply(3, "other", run=8, size=20)
    assert waited.limit(2) == waited.limit(1) == waited.limit(None) == replies.TIMES * 1000 + replies.BESIDE
    assert waited.limit(3) == replies.TIMES * 20 + replies.BESIDE
    monkeypatch.setattr(replies, "MOST", 2)
    for number in range(5):
        waited.await_reply(4, str(number), run=8, size=1)
    waited.check(4, "4")
    with pytest.raises(authentication.HttpDenied):
        waited.check(4, "0")


class Clients:
    """A server's authentication with one registered client, which asks as often and as much as it likes."""

    def __init__(self, limit: float = 100.0) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        pem = public_pem(self.key)
        registered = type("_", (), {"client": lambda _, key: 0 if key == pem else None, "nodes": {0: 1}})()
        credentials = Credentials(cast(Verifier, None), cast(Registration, registered))
        self.served = 0
        self.hold: asyncio.Event | None = None
        rest: Any = (credentials, Presence(), lambda key: None, 10**6, lambda: True, lambda node: limit)
        self.auth = Auth(self._flower, self._flower, *rest)

    async def _flower(self, scope: Any, receive: Any, send: Any) -> None:
        self.served += 1
        if self.hold is not None:
            await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, path: str, body: bytes = b"", *, is_read: bool = True) -> int:
        """Return the status of the answer to a signed request; `is_read`: whether its body may be read."""
        stamp = datetime.now(UTC).isoformat()
        signature = self.key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        named = {
            PUBLIC_KEY: base64.b64encode(public_pem(self.key)),
            TIMESTAMP: stamp.encode(),
            SIGNATURE: base64.b64encode(signature),
            "content-length": str(len(body)).encode(),
        }
        headers = [(name.encode(), value) for name, value in named.items()]
        scope = {"type": "http", "path": path, "headers": headers, "client": ("192.0.2.1", 4242)}
        sent: list[Any] = []

        async def receive() -> Any:
            assert is_read, "the body of a request that is refused was read"
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.auth(scope, receive, send)
        return int(sent[0]["status"])


def test_a_reply_that_is_too_large_is_refused_before_it_is_read() -> None:
    clients = Clients(limit=100)
    assert asyncio.run(clients.ask(GIVE, 100 * b"x")) == 200
    assert asyncio.run(clients.ask(GIVE, 101 * b"x", is_read=False)) == 413
    assert asyncio.run(clients.ask(TAKE, 101 * b"x")) == 200
    assert clients.served == 2


def test_a_client_that_is_refused_again_and_again_is_not_heard_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refusal_log, "MOST", 3)
    clients = Clients(limit=100)

    async def ask() -> list[int]:
        refused = [await clients.ask(GIVE, 101 * b"x") for _ in range(10)]
        return [*refused, await clients.ask(TAKE, is_read=False)]

    with caplog.at_level(logging.WARNING, "fedsim.server"):
        assert asyncio.run(ask()) == [413] * 4 + [429] * 7
    assert len(caplog.messages) == 4
    assert caplog.messages[-1] == "refused client 0 more than 3 times within a minute; the rest is not logged"


def test_a_client_has_so_many_requests_at_a_time() -> None:
    clients = Clients()

    async def ask() -> list[int]:
        clients.hold = asyncio.Event()
        held = [asyncio.create_task(clients.ask(TAKE)) for _ in range(authentication.AT_ONCE)]
        while clients.served < authentication.AT_ONCE:
            await asyncio.sleep(0)
        refused = await clients.ask(TAKE, is_read=False)
        clients.hold.set()
        return [refused, *await asyncio.gather(*held), await clients.ask(TAKE)]

    assert asyncio.run(ask()) == [429] + [200] * (authentication.AT_ONCE + 1)
