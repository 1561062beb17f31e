"""The Ray engine, on a cluster of two nodes (two sets of Ray's processes on this machine)."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment, Refused
from fedsim.progress import Silent
from fedsim.runtime import RayGrid
from fedsim.runtime.ray_cluster import WorkerProcess
from tests.support.engines import SPEC, query, told
from tests.support.runs import CNN, LSTM, bits
from tests.support.states import MECHANISMS, setting
from tests.support.waiting import wait_for

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

    def both_there() -> bool:
        processes.update(told(list(grid.send_and_receive([query(c) for c in range(5)])), "process").values())
        return len(processes) > 1

    wait_for(both_there, said=lambda: processes)
    assert len(grid._workers) == 2
    assert os.getpid() not in processes


@pytest.mark.parametrize("text", [CNN, LSTM], ids=["cnn", "lstm"])
def test_two_nodes_give_the_bits_of_one_process(cluster: Any, text: str) -> None:
    reference = bits(fedsim.run(Experiment.from_toml(text, ["runtime.engine=sequential"]), "sequential"))
    for workers in (1, 2):
        setting = Experiment.from_toml(text, ["runtime.engine=ray", f"runtime.workers={workers}"])
        assert bits(fedsim.run(setting, f"ray-{workers}")) == reference


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_transformer_has_the_bits_of_one_process(cluster: Any, mechanism: str) -> None:
    reference = bits(fedsim.run(setting("causal", mechanism), "sequential"))
    ray_setting = setting("causal", mechanism, runtime={"engine": "ray", "workers": 2})
    assert bits(fedsim.run(ray_setting, "ray")) == reference


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
                os.kill(wait_for(actors)[0], signal.SIGKILL)  # the one killed last may not be back yet

    ray_setting = Experiment.from_toml(CNN, ["rounds=4", "runtime.engine=ray"])
    assert bits(fedsim.run(ray_setting, "ray", KillActors())) == reference


def test_invalid_options_of_ray_are_refused() -> None:
    with pytest.raises(Refused, match=r"runtime\.address = 'auto': is for engine = 'ray', not 'local'"):
        Experiment.from_toml("", ["runtime.address=auto"])
