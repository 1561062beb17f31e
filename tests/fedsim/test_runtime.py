import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedsim.runtime import AppSpec, ClientsGrid, LocalGrid, SequentialGrid
from fedsim.runtime.spec import client_of, node_id

SPEC = AppSpec(5, {}, "tests.support.apps:stateful")
ENGINES: dict[str, Callable[[], ClientsGrid]] = {
    "sequential": lambda: SequentialGrid(SPEC),
    "one worker": lambda: LocalGrid(SPEC, 1),
    "three workers": lambda: LocalGrid(SPEC, 3),
}


@pytest.fixture(params=ENGINES, scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[ClientsGrid]:
    """A Grid for all tests: worker processes take longer to start than to do what they are asked."""
    with ENGINES[request.param]() as grid:
        yield grid


@pytest.fixture
def grid(engine: ClientsGrid) -> ClientsGrid:
    """The Grid, with clients who remember nothing."""
    engine.restore_states({client: RecordDict() for client in range(5)})
    engine.changed_states()
    return engine


def query(client: int, action: str = "query", content: RecordDict | None = None) -> Message:
    return Message(content or RecordDict(), node_id(client), action)


def array(value: float) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"w": Array(np.full(3, value))})})


@dataclass(frozen=True)
class Sum:
    """Adds up the arrays that `tests.support.apps.add` sends, and counts the errors."""

    def add(self, total: tuple[np.ndarray, int] | None, reply: Message) -> tuple[np.ndarray, int]:
        values, errors = (np.zeros(3), 0) if total is None else total
        if reply.has_error():
            return values, errors + 1
        return values + reply.content.array_records["arrays"]["w"].numpy(), errors

    def merge(self, left: tuple[np.ndarray, int], right: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
        values, errors = left
        values += right[0]  # in place, as the fold of the server does it
        return values, errors + right[1]


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


def test_replies_are_folded_where_they_are_and_no_client_sees_what_another_did(grid: ClientsGrid) -> None:
    content = array(10.0)  # one for all, as Flower's FedAvg has it
    groups = [[query(client, "query.add", content) for client in group] for group in ([0, 1, 2], [3], [4, 0])]
    groups[1].append(query(1, "query.nothing"))
    for _ in range(3):
        values, errors = grid.send_and_fold([[copy(m) for m in group] for group in groups], Sum())  # type: ignore[misc]
        assert values.tolist() == [6 * 10 + 0 + 1 + 2 + 3 + 4 + 0] * 3
        assert errors == 1
    assert content["arrays"]["w"].numpy().tolist() == [10.0] * 3


def copy(message: Message) -> Message:
    return query(client_of(message.metadata.dst_node_id), message.metadata.message_type, message.content)


def test_arrays_in_a_clients_state_stay_and_who_raises_keeps_the_old_ones(grid: ClientsGrid) -> None:
    kept: dict[int, list[list[float]]] = {2: [], 3: []}
    for value in (1.0, 2.0, 3.0):
        for client in (2, 3):
            (reply,) = grid.send_and_receive([query(client, "query.remember", array(value))])
            if reply.has_content():
                kept[client].append([float(a.numpy()[0]) for a in reply.content["kept"].values()])
        if value == 1.0:
            assert sorted(grid.changed_states()) == [2]
            assert grid.changed_states() == {}
    assert kept == {2: [[], [1.0], [2.0]], 3: []}
    grid.restore_states(
        {
            2: grid.changed_states()[2],
            0: RecordDict(dict(array(7.0)) | {"count": ConfigRecord({"messages": 4})}),
        }
    )
    (reply,) = grid.send_and_receive([query(0)])
    assert told([reply], "messages") == {0: 5}


def test_messages_to_one_client_are_answered_one_after_another(grid: ClientsGrid) -> None:
    ids = grid.push_messages([query(1) for _ in range(6)])
    counts = []
    for message_id in ids:
        while not (replies := list(grid.pull_messages([message_id]))):
            pass
        counts.append(told(replies, "messages")[1])
    assert counts == [1, 2, 3, 4, 5, 6]


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


def test_where_no_second_try_is_allowed_all_of_a_lost_job_have_failed_at_once() -> None:
    with LocalGrid(replace(SPEC, second_try=False), 2) as grid:
        group = [query(0, "query.add", array(1.0)), query(2, "query.die"), query(4, "query.add", array(1.0))]
        values, errors = grid.send_and_fold([group, [query(1, "query.add", array(1.0))]], Sum())  # type: ignore[misc]
        assert (values.tolist(), errors) == ([1.0 + 1] * 3, 3)
        (reply,) = grid.send_and_receive([query(0, "query.die")])
        assert reply.error.reason == "worker process ended with -9"


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


@pytest.mark.slow
def test_the_others_of_a_lost_clients_group_are_tried_again_and_their_answers_count() -> None:
    for workers in (1, 3):
        with LocalGrid(SPEC, workers) as grid:
            group = [
                query(0, "query.add", array(1.0)),
                query(2, "query.die"),
                query(4, "query.add", array(1.0)),
            ]
            values, errors = grid.send_and_fold([group, [query(1, "query.add", array(1.0))]], Sum())  # type: ignore[misc]
            assert values.tolist() == [3.0 + 0 + 4 + 1] * 3
            assert errors == 1


def test_a_client_whose_worker_is_killed_once_answers_from_the_same_state(tmp_path: Path) -> None:
    mark = RecordDict({"config": ConfigRecord({"mark": str(tmp_path / "died")})})
    with LocalGrid(SPEC, 2) as grid:
        list(grid.send_and_receive([query(1)]))
        replies = list(grid.send_and_receive([query(1, "query.die_once", mark), query(0)]))
        assert told(replies, "messages") == {0: 1, 1: 2}
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_fold_leaves_out_the_group_that_is_late() -> None:
    with LocalGrid(SPEC, 2) as grid:
        list(grid.send_and_receive([query(client) for client in range(5)]))  # the workers have started
        groups = [
            [query(0, "query.sleep")],
            [query(1, "query.add", array(1.0))],
            [query(2, "query.add", array(1.0))],
        ]
        values, errors = grid.send_and_fold(groups, Sum(), timeout=2.0)  # type: ignore[misc]
        assert (values.tolist(), errors) == ([1 + 1 + 1 + 2] * 3, 0)
        assert grid.send_and_fold([[query(0, "query.sleep")]], Sum(), timeout=0.3) is None
        assert told(list(grid.send_and_receive([query(0)])), "messages") == {0: 2}


def test_an_app_that_cannot_be_loaded_fails_each_message_with_the_reason() -> None:
    with LocalGrid(AppSpec(2, {}, "tests.support.apps:missing"), 2) as grid:
        for _ in range(2):
            replies = list(grid.send_and_receive([query(0), query(1)]))
            assert len(replies) == 2
            assert all(
                "'tests.support.apps:missing' can't be loaded" in str(reply.error.reason) for reply in replies
            )


def test_workers_that_never_start_fail_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with LocalGrid(SPEC, 1) as grid:
        (reply,) = grid.send_and_receive([query(0)])
        assert reply.error.reason == "worker process ended with 1 before it was ready"


def test_workers_end_with_the_grid() -> None:
    grid = LocalGrid(SPEC, 2)
    processes = [worker.process for worker in grid._workers]
    list(grid.send_and_receive([query(0)]))
    grid.close()
    assert all(process.poll() is not None for process in processes)


@pytest.mark.slow
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
