"""Callers that open connections and never end a request, against the server's sockets in this process."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from fedsim.deployment.keys import CA, SERVER_CERTIFICATE, SERVER_KEY, make_keys
from fedsim.deployment.server import refusal_log, waiting
from fedsim.deployment.server.asgi import HttpDenied, answer, read_body
from fedsim.deployment.server.refusal_log import RefusalLog
from fedsim.deployment.server.sockets import Loop, listen, server_context
from fedsim.deployment.server.waiting import WaitingProtocol

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
HALF = b"GET /health HTTP/1.1\r\nhost: local"
Connect = Callable[[bool], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, 200, {"status": "ok"})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waiting") / "keys"
    make_keys(folder, 1, [], timedelta(days=1))
    return folder / "server"


@pytest.fixture
def served(keys: Path) -> Callable[[Callable[[Connect, Loop], Awaitable[None]]], None]:
    """Return a function that serves over TLS while a coroutine talks to the server."""

    def run(talk: Callable[[Connect, Loop], Awaitable[None]]) -> None:
        trusting = ssl.create_default_context(cafile=str(keys / CA))

        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            sockets = listen("127.0.0.1", 0)
            config = uvicorn.Config(app, http=WaitingProtocol, log_config=None, ws="none", lifespan="off")
            config.load()
            config.ssl = server_context(keys / SERVER_CERTIFICATE, keys / SERVER_KEY)
            server = uvicorn.Server(config)
            server.capture_signals = no_signals  # type: ignore[method-assign]
            serving = asyncio.create_task(server.serve(sockets))
            while not server.started:
                await asyncio.sleep(0.01)
            port, writers = sockets[0].getsockname()[1], []

            async def connect(with_tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                trust = {"ssl": trusting, "server_hostname": "localhost"} if with_tls else {}
                opened = await asyncio.open_connection("127.0.0.1", port, **trust)
                writers.append(opened[1])
                return opened

            try:
                await talk(connect, loop)
            finally:
                for writer in writers:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
                server.should_exit = True
                await serving

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main())

    return run


def no_signals() -> Any:
    return nullcontext()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the server closes a connection."""
    try:
        return await asyncio.wait_for(reader.read(), 60) == b""
    except ConnectionError:
        return True


async def healthy(connect: Connect) -> bool:
    reader, writer = await connect(True)
    writer.write(HEALTH)
    line = await reader.readline()
    writer.close()
    return line == b"HTTP/1.1 200 OK\r\n"


def test_neither_a_handshake_nor_a_header_may_stay_half(
    served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.5)

    async def talk(connect: Connect, loop: Loop) -> None:
        silent, _silent = await connect(False)  # no TLS at all
        nothing, _nothing = await connect(True)
        half, writer = await connect(True)
        writer.write(HALF)
        second, again = await connect(True)  # half after a whole one
        again.write(HEALTH)
        await second.readuntil(b"}")
        again.write(HALF)
        assert [await is_closed(reader) for reader in (silent, nothing, half, second)] == [True] * 4
        assert loop.waiting.count("127.0.0.1") == 0

    with caplog.at_level(logging.WARNING, "fedsim.server"):
        served(talk)
    said = [line for line in caplog.messages if "connection: no whole request came within" in line]
    assert len(said) == 4


def test_many_of_one_address_leave_room_for_a_request(
    served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "MOST", 5)
    monkeypatch.setattr(refusal_log, "MOST", 3)

    async def talk(connect: Connect, loop: Loop) -> None:
        held = [await connect(False) for _ in range(20)]
        assert await healthy(connect)
        assert loop.waiting.count("127.0.0.1") <= 5
        assert await is_closed(held[0][0])

    with caplog.at_level(logging.WARNING, "fedsim.server"):
        served(talk)
    assert sum("so the oldest was closed" in line for line in caplog.messages) == 3
    assert sum("more than 3 times within a minute" in line for line in caplog.messages) == 1


def test_what_is_no_http_is_refused_in_a_line(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def talk(connect: Connect, loop: Loop) -> None:
        reader, writer = await connect(True)
        writer.write(b"\0\1\2\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")

    with caplog.at_level(logging.WARNING, "fedsim.server"):
        served(talk)
    said = [line for name, _, line in caplog.record_tuples if name == "fedsim.server"]
    assert [line.rpartition(": ")[2] for line in said] == ["it did not speak HTTP"]


def test_a_body_that_halts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.deployment.server.asgi.PATIENCE", 0.01)

    async def halting() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(HttpDenied, match="no more of the request came") as denied:
        asyncio.run(read_body({"headers": []}, halting, 100))
    assert denied.value.status == 408


def test_one_caller_has_so_many_lines_in_the_log_and_others_have_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    refusals = RefusalLog(lambda: clock[0])
    for _ in range(3):
        for _ in range(1000):
            refusals.refused("192.0.2.1", "192.0.2.1:4242", "no")
        refusals.refused("192.0.2.2", "192.0.2.2:4242", "no")
    assert len(caplog.messages) == refusal_log.MOST + 1 + 3
    clock[0] += refusal_log.WINDOW
    refusals.refused("192.0.2.1", "192.0.2.1:4242", "no")
    assert caplog.messages[-1] == "refused 192.0.2.1:4242: no"
