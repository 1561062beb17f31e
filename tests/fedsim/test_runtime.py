import os
import sys
from collections.abc import Callable, Iterator

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from fedsim.runtime import AppSpec, ClientsGrid, LocalGrid, SequentialGrid
from fedsim.runtime.spec import node_id

SPEC = AppSpec(5, {}, "tests.apps:stateful")
ENGINES: dict[str, Callable[[], ClientsGrid]] = {
    "sequential": lambda: SequentialGrid(SPEC),
    "one worker": lambda: LocalGrid(SPEC, 1),
    "three workers": lambda: LocalGrid(SPEC, 3),
}


@pytest.fixture(params=ENGINES)
def grid(request: pytest.FixtureRequest) -> Iterator[ClientsGrid]:
    with ENGINES[request.param]() as engine:
        yield engine


def query(client: int, action: str = "query") -> Message:
    return Message(RecordDict(), node_id(client), action)


def told(replies: list[Message], key: str) -> dict[int, int]:
    return {r.metadata.src_node_id - node_id(0): int(r.content["told"][key]) for r in replies}


def test_mods_run_and_each_client_keeps_its_own_state(grid: ClientsGrid) -> None:
    for _ in range(2):
        list(grid.send_and_receive([query(1), query(4)]))
    replies = list(grid.send_and_receive([query(client) for client in (0, 1, 4)]))
    assert told(replies, "messages") == {0: 1, 1: 3, 4: 3}
    assert all(reply.metadata.reply_to_message_id for reply in replies)


def test_pushed_messages_can_be_pulled_once(grid: ClientsGrid) -> None:
    ids = list(grid.push_messages([query(0), query(1)]))
    pulled: list[Message] = []
    while missing := set(ids) - {m.metadata.reply_to_message_id for m in pulled}:
        pulled += grid.pull_messages(missing)
    assert {m.metadata.reply_to_message_id for m in pulled} == set(ids)
    assert [m.error.code for m in grid.pull_messages(ids)] == [ErrorCode.MESSAGE_UNAVAILABLE] * 2


def test_clients_get_their_partition_and_nodes_are_all_there(grid: ClientsGrid) -> None:
    assert list(grid.get_node_ids()) == [grid.client_nodes()[client] for client in range(5)]
    assert list(grid.push_messages([query(5)])) == []


def test_what_a_client_raises_is_its_error_reply(grid: ClientsGrid) -> None:
    (reply,) = grid.send_and_receive([query(0, "query.nothing")])
    assert reply.has_error()
    assert "No query function registered with name 'nothing'" in str(reply.error.reason)


def test_workers_are_other_processes_and_as_many_as_told() -> None:
    with LocalGrid(SPEC, 2) as grid:
        processes = set(
            told(list(grid.send_and_receive([query(c % 5) for c in range(40)])), "process").values()
        )
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


def test_a_worker_that_dies_is_replaced_and_its_client_tried_again_once() -> None:
    with LocalGrid(SPEC, 1) as grid:
        (reply,) = grid.send_and_receive([query(0, "query.die")])
        assert reply.has_error()
        assert reply.error.reason == "worker process ended with -9, twice"
        assert told(list(grid.send_and_receive([query(0)])), "messages") == {0: 1}


def test_who_is_late_is_left_behind() -> None:
    with LocalGrid(SPEC, 2) as grid:
        awake: set[int] = set()
        while len(awake) < 2:  # both workers have started
            awake |= set(told(list(grid.send_and_receive([query(1), query(2)])), "process").values())
        sleeper = query(0, "query.sleep")
        replies = list(grid.send_and_receive([sleeper, query(3)], timeout=2.0))
        assert set(told(replies, "messages")) == {3}
        grid.give_up([sleeper])
        assert told(list(grid.send_and_receive([query(0)])), "messages") == {0: 1}  # from the state before


def test_workers_end_with_the_grid() -> None:
    grid = LocalGrid(SPEC, 2)
    processes = [worker.process for worker in grid._workers]
    list(grid.send_and_receive([query(0)]))
    grid.close()
    assert all(process.poll() is not None for process in processes)


def test_a_script_needs_no_main_guard(tmp_path: os.PathLike[str]) -> None:
    import subprocess
    from pathlib import Path

    script = Path(tmp_path) / "script.py"
    script.write_text(
        "import fedsim\n"
        "text = 'rounds = 1\\n[data]\\nclients = 4\\n[model]\\nname = \"linear\"\\n[server]\\ncohort = 2'\n"
        "print(fedsim.run(fedsim.Experiment.from_toml(text), 'out').status)\n"
    )
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (0, "completed\n"), result.stderr
