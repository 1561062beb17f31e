"""Flower's database under load: one transaction at a time, and SuperExec outlives an error of the server's."""

import os
import secrets
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore import sql_mixin
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec import run_superexec

from fedsim.deployment.server import superexec as supervisor
from fedsim.flower import superexec
from fedsim.flower.superlink import open_superlink

# Alembic's, of Flower's migrations.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


def test_transactions_of_many_threads_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dict(sql_mixin.SQLITE_PRAGMAS) | {"busy_timeout": "1"}  # milliseconds
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", tuple(short.items()))
    state: Any = open_superlink(tmp_path / "superlink.db", b"secret", has_keys=False).messages._state
    errors: list[Exception] = []
    begun, go_on = threading.Event(), threading.Event()

    def add_node() -> None:
        state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, secrets.token_bytes(8), 0)

    def hold() -> None:
        with state.session():
            add_node()
            begun.set()
            go_on.wait(60)

    def add() -> None:
        try:
            add_node()
        except Exception as error:
            errors.append(error)

    holding = threading.Thread(target=hold)
    holding.start()
    assert begun.wait(60)
    threads = [threading.Thread(target=add) for _ in range(100)]
    for thread in threads:
        thread.start()
    threads[0].join(0.2)  # without waiting for each other all would have failed by now
    go_on.set()
    for thread in [holding, *threads]:
        thread.join()
    assert errors == []
    assert len(state.get_node_info()) == 101


def test_the_object_store_is_part_of_that(tmp_path: Path) -> None:
    state: Any = open_superlink(tmp_path / "superlink.db", b"secret", has_keys=False).messages._state
    entered = threading.Event()

    def enter() -> None:
        with state.object_store.session():
            entered.set()

    thread = threading.Thread(target=enter)
    with state.session(), state.object_store.session():  # a thread may nest them
        thread.start()
        assert not entered.wait(0.1)
    thread.join()
    assert entered.is_set()


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://server.example")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


def asking(monkeypatch: pytest.MonkeyPatch, *statuses: int) -> str:
    """Ask a server that answers as told for a task, as SuperExec does; return the token that came."""
    left = list(statuses)

    def acquire(client: object, request: AcquireTaskRequest) -> AcquireTaskResponse:
        if (status := left.pop(0)) != 200:
            raise refusal(status)
        return AcquireTaskResponse(token="given")

    monkeypatch.setattr(superexec, "PAUSE", 0.0)
    monkeypatch.setattr(RuntimeHttpClient, "AcquireTask", acquire)
    client = object.__new__(superexec.PatientClient)
    return str(client.AcquireTask(AcquireTaskRequest()).token)


def test_superexec_asks_again_after_an_error_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asking(monkeypatch, 500, 503, 500, 200) == "given"


def test_superexec_does_not_ask_again_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        asking(monkeypatch, 401, 200)


def test_superexec_gives_up_where_the_server_does_not_get_well(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        asking(monkeypatch, *[500] * (superexec.TRIES + 1))


def test_the_program_asks_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superexec, "flower_superexec", lambda: None)
    monkeypatch.setattr(run_superexec, "RuntimeHttpClient", RuntimeHttpClient)
    superexec.main()
    assert run_superexec.RuntimeHttpClient is superexec.PatientClient


def test_a_superexec_that_ends_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "RUN", "open('started', 'a').write('once '); raise SystemExit(3)")
    monkeypatch.setattr(supervisor, "RESTARTS", 2)
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)
    assert supervisor.main(os.getppid(), []) == 1
    assert Path("started").read_text() == "once once once "
    assert capfd.readouterr().err == 2 * "fedsim server: SuperExec ended with 3, and is started again\n"
