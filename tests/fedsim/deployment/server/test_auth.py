"""Authentication by the caller's address, which a test with processes on one machine can't vary."""

import asyncio
import json
import logging
from typing import Any

import pytest

from fedsim.deployment.server.auth import Auth
from fedsim.deployment.server.clients import Presence


async def flower(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": (await receive())["body"]})


def ask(path: str, client: str | None, server: str = "192.0.2.1", ready: bool = True) -> tuple[int, Any]:
    """Return the status and body of the answer to a request from an address."""
    auth = Auth(flower, flower, None, Presence(), lambda key: None, 100, lambda: ready)
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "client": client and (client, 4242),
        "server": (server, 9091),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(auth(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


FLOWERS_OWN = [
    "/v1/runtime/acquire-task",
    "/v1/responses",
    "/docs",
    "/openapi.json",
    "/",
    "/v1/control",
    "/V1/control/start-run",
    "//v1/control/start-run",
]


@pytest.mark.parametrize("path", FLOWERS_OWN)
@pytest.mark.parametrize("client", ["198.51.100.7", "2001:db8::7", "::ffff:198.51.100.7", None])
def test_other_machines_get_at_nothing_but_what_is_for_them(
    path: str, client: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedsim.server"):
        status, body = ask(path, client)
    assert (status, body) == (403, {"error": "is for processes on the server's own machine"})
    who = f"{client}:4242" if client else "an unknown address"
    assert caplog.messages == [f"refused {who}: {path}: is for processes on the server's own machine"]


def test_a_path_can_not_write_lines_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    ask("/a\nWARNING refused nobody\x1b[2J", "198.51.100.7")
    assert caplog.messages[0].startswith("refused 198.51.100.7:4242: /a\\nWARNING refused nobody\\x1b[2J: ")


@pytest.mark.parametrize("client", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "192.0.2.1"])
def test_this_machine_gets_at_everything(client: str) -> None:
    assert [ask(path, client)[0] for path in FLOWERS_OWN] == [200] * len(FLOWERS_OWN)


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_anybody_may_ask_for_its_health(ready: bool, status: int) -> None:
    assert ask("/health", "198.51.100.7", ready=ready)[0] == 200
    assert ask("/health/ready", "198.51.100.7", ready=ready)[0] == status
