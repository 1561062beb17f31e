"""What holds for every engine: the reference engine's bits, states, folds, errors and deadlines.

A new engine gets a line in `CASES`; one whose clients are played by workers, in `POOLS` too. What Flower means by messages
stands in `tests/fedsim/test_flower_semantics.py`; what one engine alone does, in its own tests.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

import fedsim
from fedsim import Experiment
from fedsim.engines import ENGINES, start_engine
from fedsim.runtime import AppSpec, ClientsGrid
from tests.support.engines import SPEC, Sum, array, copy, query, told
from tests.support.runs import CNN, LSTM, bits, private_bits
from tests.support.waiting import wait_for

# The name of an engine, and its workers.
CASES = {
    "sequential": ("sequential", 0),
    "one worker": ("local", 1),
    "three workers": ("local", 3),
    "ray": ("ray", 2),
}
POOLS = ("local", "ray")
RAY = (
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),  # Ray's own
)
# A worker's end in the engine's words.
ENDS = {"local": "worker process ended with -9", "ray": "Ray actor ended (ActorDiedError)"}

Pool = Callable[..., ClientsGrid]


def slow_if_ray(names: Any) -> list[Any]:
    """Return parameters of which those of Ray are marked."""
    return [pytest.param(name, marks=RAY) if name == "ray" else name for name in names]


@pytest.fixture(scope="module")
def started_ray() -> Iterator[None]:
    """Start Ray on this machine, once for all Grids; it counts more cores than there are."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=8, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(params=slow_if_ray(CASES), scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[ClientsGrid]:
    """A Grid for all tests: workers take longer to start than to do what they are asked."""
    name, workers = CASES[request.param]
    if name == "ray":
        request.getfixturevalue("started_ray")
    with start_engine(name, workers, "", SPEC, most=3) as grid:
        yield grid


@pytest.fixture
def grid(engine: ClientsGrid) -> ClientsGrid:
    """The Grid, with clients that remember nothing."""
    engine.restore_states({client: RecordDict() for client in range(5)})
    engine.changed_states()
    return engine


@pytest.fixture(params=slow_if_ray(POOLS), scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Return the name of an engine with workers."""
    if request.param == "ray":
        request.getfixturevalue("started_ray")
    return str(request.param)


@pytest.fixture
def pool(kind: str) -> Pool:
    """Return what starts a Grid with some workers of its own."""

    def start(workers: int, spec: AppSpec = SPEC) -> ClientsGrid:
        return start_engine(kind, workers, "", spec, most=workers)

    return start


def test_every_engine_is_among_the_cases() -> None:
    assert {name for name, _ in CASES.values()} == set(ENGINES)
    assert set(POOLS) == set(ENDS) == set(ENGINES) - {"sequential"}


# --- bits ---------------------------------------------------------------------------------------------------

DP_SGD = "[privacy.dp-sgd]\nnoise-multiplier = 1.0\ndelta = 1e-5\n"
TEXTS = {"cnn": CNN, "lstm": LSTM, "private cnn": CNN + DP_SGD, "private lstm": LSTM + DP_SGD}


def all_bits(run: fedsim.Run) -> Any:
    return private_bits(run) if run.ledger.exists() else bits(run)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return the bits of a run on the reference engine, which is made once."""
    found: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in found:
            setting = Experiment.from_toml(TEXTS[name], ["runtime.engine=sequential"])
            found[name] = all_bits(fedsim.run(setting, tmp_path_factory.mktemp("reference") / "run"))
        return found[name]

    return of


@pytest.mark.parametrize(
    ("name", "engine", "workers"),
    [
        ("cnn", "sequential", 0),
        ("cnn", "local", 3),
        *(pytest.param("cnn", "local", n, marks=pytest.mark.slow) for n in (1, 2)),
        *(pytest.param("lstm", "local", n, marks=pytest.mark.slow) for n in (1, 2, 3)),
        *(pytest.param(f"private {name}", "local", 3, marks=pytest.mark.slow) for name in ("cnn", "lstm")),
        pytest.param("private cnn", "ray", 2, marks=RAY),
    ],
)
def test_a_run_has_the_bits_of_the_reference_engine(
    name: str, engine: str, workers: int, reference: Callable[[str], Any]
) -> None:
    setting = Experiment.from_toml(TEXTS[name], [f"runtime.engine={engine}", f"runtime.workers={workers}"])
    assert all_bits(fedsim.run(setting, "run")) == reference(name)


def test_another_seed_gives_other_bits(reference: Callable[[str], Any]) -> None:
    other = Experiment.from_toml(CNN, ["seed=1", "runtime.engine=sequential"])
    assert bits(fedsim.run(other, "other"))[0] != reference("cnn")[0]


# --- messages, states and folds -----------------------------------------------------------------------------


def test_mods_run_and_each_client_keeps_its_own_state(grid: ClientsGrid) -> None:
    for _ in range(2):
        list(grid.send_and_receive([query(1), query(4)]))
    replies = list(grid.send_and_receive([query(client) for client in (0, 1, 4)]))
    assert told(replies, "messages") == {0: 1, 1: 3, 4: 3}
    assert all(reply.metadata.reply_to_message_id for reply in replies)


def test_pushed_messages_can_be_pulled_once(grid: ClientsGrid) -> None:
    ids = list(grid.push_messages([query(0), query(1)]))
    pulled: list[Message] = []

    def missing() -> set[str]:
        return set(ids) - {m.metadata.reply_to_message_id for m in pulled}

    wait_for(lambda: pulled.extend(grid.pull_messages(missing())) or not missing(), said=missing)  # type: ignore[func-returns-value]
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
    counts = []
    for message_id in grid.push_messages([query(1) for _ in range(6)]):
        replies = wait_for(lambda i=message_id: list(grid.pull_messages([i])), pause=0.001)  # type: ignore[misc]
        counts.append(told(replies, "messages")[1])
    assert counts == [1, 2, 3, 4, 5, 6]


# --- workers: lost, late, or never there --------------------------------------------------------------------


def test_workers_are_other_processes_and_as_many_as_told(pool: Pool) -> None:
    with pool(2) as grid:
        replies = list(grid.send_and_receive([query(c % 5) for c in range(40)]))
        processes = set(told(replies, "process").values())
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


def test_a_worker_that_dies_is_replaced_and_its_client_tried_again_once(kind: str, pool: Pool) -> None:
    with pool(1) as grid:
        (reply,) = grid.send_and_receive([query(0, "query.die")])
        assert reply.error.reason == f"{ENDS[kind]}, twice"
        assert told(list(grid.send_and_receive([query(0)])), "messages") == {0: 1}


def test_where_no_second_try_is_allowed_all_of_a_lost_job_have_failed_at_once(kind: str, pool: Pool) -> None:
    with pool(2, replace(SPEC, second_try=False)) as grid:
        group = [query(0, "query.add", array(1.0)), query(2, "query.die"), query(4, "query.add", array(1.0))]
        values, errors = grid.send_and_fold([group, [query(1, "query.add", array(1.0))]], Sum())  # type: ignore[misc]
        assert (values.tolist(), errors) == ([1.0 + 1] * 3, 3)
        (reply,) = grid.send_and_receive([query(0, "query.die")])
        assert reply.error.reason == ENDS[kind]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_the_others_of_a_lost_clients_group_are_tried_again_and_their_answers_count(
    workers: int, pool: Pool
) -> None:
    with pool(workers) as grid:
        group = [query(0, "query.add", array(1.0)), query(2, "query.die"), query(4, "query.add", array(1.0))]
        values, errors = grid.send_and_fold([group, [query(1, "query.add", array(1.0))]], Sum())  # type: ignore[misc]
        assert (values.tolist(), errors) == ([3.0 + 0 + 4 + 1] * 3, 1)


def test_a_client_whose_worker_is_killed_once_answers_from_the_same_state(pool: Pool, tmp_path: Path) -> None:
    mark = RecordDict({"config": ConfigRecord({"mark": str(tmp_path / "died")})})
    with pool(2) as grid:
        list(grid.send_and_receive([query(1)]))
        replies = list(grid.send_and_receive([query(1, "query.die_once", mark), query(0)]))
        assert told(replies, "messages") == {0: 1, 1: 2}
    assert (tmp_path / "died").exists()


def awake(grid: ClientsGrid, workers: int) -> None:
    """Wait until all workers have started."""
    processes: set[int] = set()

    def all_there() -> bool:
        processes.update(told(list(grid.send_and_receive([query(1), query(2)])), "process").values())
        return len(processes) == workers

    wait_for(all_there, pause=0.0, said=lambda: processes)


def test_late_clients_are_dropped(pool: Pool) -> None:
    with pool(2) as grid:
        awake(grid, 2)
        sleeper = query(0, "query.sleep")
        replies = list(grid.send_and_receive([sleeper, query(3)], timeout=2.0))
        assert set(told(replies, "messages")) == {3}
        grid.give_up([sleeper])
        assert told(list(grid.send_and_receive([query(0)])), "messages") == {0: 1}  # from the state before


@pytest.mark.slow
def test_a_fold_leaves_out_the_group_that_is_late(pool: Pool) -> None:
    with pool(2) as grid:
        awake(grid, 2)
        list(grid.send_and_receive([query(0)]))
        groups = [
            [query(0, "query.sleep")],
            [query(1, "query.add", array(1.0))],
            [query(2, "query.add", array(1.0))],
        ]
        values, errors = grid.send_and_fold(groups, Sum(), timeout=2.0)  # type: ignore[misc]
        assert (values.tolist(), errors) == ([1 + 1 + 1 + 2] * 3, 0)
        assert grid.send_and_fold([[query(0, "query.sleep")]], Sum(), timeout=0.3) is None
        assert told(list(grid.send_and_receive([query(0)])), "messages") == {0: 2}


def test_an_app_that_cannot_be_loaded_fails_each_message_with_the_reason(pool: Pool) -> None:
    with pool(2, AppSpec(2, {}, "tests.support.apps:missing")) as grid:
        for _ in range(2):
            replies = list(grid.send_and_receive([query(0), query(1)]))
            reasons = [str(reply.error.reason) for reply in replies]
            assert len(reasons) == 2
            assert all("'tests.support.apps:missing' can't be loaded" in reason for reason in reasons)
