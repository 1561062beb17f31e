"""The Ray engine, on a cluster of two nodes (two sets of Ray's processes on this machine)."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment, Refused
from fedsim.progress import Silent
from fedsim.runtime import AppSpec, RayGrid
from fedsim.runtime.ray_cluster import WorkerProcess
from tests.fedsim.test_runtime import SPEC, Sum, array, query, told
from tests.support.runs import CNN, LSTM, bits

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def grid(cluster: Any) -> Iterator[RayGrid]:
    with RayGrid(SPEC) as made:
        yield made


def test_a_worker_a_node(grid: RayGrid) -> None:
    processes: set[int] = set()
    while len(processes) < 2:
        processes |= set(told(list(grid.send_and_receive([query(c) for c in range(5)])), "process").values())
    assert len(grid._workers) == 2
    assert os.getpid() not in processes


def test_it_does_what_the_other_engines_do(grid: RayGrid) -> None:
    groups = [
        [query(0, "query.add", array(1.0)), query(1, "query.add", array(1.0))],
        [query(2, "query.add", array(1.0))],
    ]
    values, errors = grid.send_and_fold(groups, Sum())  # type: ignore[misc]
    assert (values.tolist(), errors) == ([3 + 0 + 1 + 2] * 3, 0)
    for expected in ([], [1.0], [2.0]):
        (reply,) = grid.send_and_receive(
            [query(2, "query.remember", array(len(expected) + 1.0 if expected != [1.0] else 2.0))]
        )
        assert [float(a.numpy()[0]) for a in reply.content["kept"].values()] == expected
    (reply,) = grid.send_and_receive([query(0, "query.nothing")])
    assert "No query function registered with name 'nothing'" in str(reply.error.reason)


def test_an_actor_that_dies_is_replaced_and_its_clients_tried_again(grid: RayGrid) -> None:
    group = [query(0, "query.add", array(1.0)), query(2, "query.die"), query(4, "query.add", array(1.0))]
    values, errors = grid.send_and_fold([group, [query(1, "query.add", array(1.0))]], Sum())  # type: ignore[misc]
    assert (values.tolist(), errors) == ([3.0 + 0 + 4 + 1] * 3, 1)
    (reply,) = grid.send_and_receive([query(0, "query.die")])
    assert reply.error.reason == "Ray actor ended (ActorDiedError), twice"


def test_where_no_second_try_is_allowed_an_actors_clients_have_failed_at_once(cluster: Any) -> None:
    with RayGrid(replace(SPEC, second_try=False)) as grid:
        (reply,) = grid.send_and_receive([query(0, "query.die")])
        assert reply.error.reason == "Ray actor ended (ActorDiedError)"


@pytest.mark.parametrize("text", [CNN, LSTM], ids=["cnn", "lstm"])
def test_two_nodes_give_the_bits_of_one_process(cluster: Any, text: str) -> None:
    reference = bits(fedsim.run(Experiment.from_toml(text, ["runtime.engine=sequential"]), "sequential"))
    for workers in (1, 2):
        setting = Experiment.from_toml(text, ["runtime.engine=ray", f"runtime.workers={workers}"])
        assert bits(fedsim.run(setting, f"ray-{workers}")) == reference


def test_a_node_that_is_lost_costs_no_bits(cluster: Any) -> None:
    setting = Experiment.from_toml(CNN, ["rounds=6", "client.epochs=3"])
    reference = bits(fedsim.run(setting, "local"))
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    class LoseANode(Silent):
        def round_done(self, row: Any) -> None:
            """Lose the node after the second round, with its actor and perhaps its work."""
            if row["round"] == 2:
                cluster.remove_node(node, allow_graceful=False)

    ray_setting = Experiment.from_toml(
        CNN, ["rounds=6", "client.epochs=3", "runtime.engine=ray", "runtime.workers=3"]
    )
    assert bits(fedsim.run(ray_setting, "ray", LoseANode())) == reference


def actors() -> list[int]:
    """Return the processes of actors: Ray names them after their class."""
    name = f"ray::{WorkerProcess.__name__}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(name):
                found.append(int(path.parent.name))
    return found


def test_actors_that_are_killed_cost_no_bits(cluster: Any) -> None:
    setting = Experiment.from_toml(CNN, ["rounds=4"])
    reference = bits(fedsim.run(setting, "local"))

    class KillActors(Silent):
        def round_done(self, row: Any) -> None:
            """Kill an actor's process as the kernel does when memory runs out.

            Twice: it may not be ready yet, and three of those in a row end a run.
            """
            if row["round"] < 3:
                deadline = time.monotonic() + 120
                while not (alive := actors()):  # the one killed last may not be back yet
                    assert time.monotonic() < deadline, "there is no process of an actor"
                    time.sleep(0.05)
                os.kill(alive[0], signal.SIGKILL)

    ray_setting = Experiment.from_toml(CNN, ["rounds=4", "runtime.engine=ray"])
    assert bits(fedsim.run(ray_setting, "ray", KillActors())) == reference


def test_an_app_that_cannot_be_loaded_fails_each_message_with_the_reason(cluster: Any) -> None:
    with RayGrid(AppSpec(2, {}, "tests.support.apps:missing")) as made:
        replies = list(made.send_and_receive([query(0), query(1)]))
    assert all("'tests.support.apps:missing' can't be loaded" in str(reply.error.reason) for reply in replies)


def test_what_ray_is_not_asked_for_is_refused() -> None:
    with pytest.raises(Refused, match=r"runtime\.address = 'auto': is for engine = 'ray', not 'local'"):
        Experiment.from_toml("", ["runtime.address=auto"])
