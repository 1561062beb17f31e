"""What holds for every algorithm, by what a user sees: `fedsim.run`, the run directory, its ledger and its checkpoint.

A new algorithm is among them by its entry in the catalogue; a user's own is tried by the toy's name. What is peculiar to one
stands in its own tests.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

import fedsim
from fedsim import Experiment
from fedsim.algorithms import Algorithm
from fedsim.algorithms.build import algorithm_of
from fedsim.catalogue import ALGORITHMS
from tests.conformance.test_mechanism import TABLES
from tests.support.fields import client_states, client_values, distance, mean, server_state
from tests.support.runs import bits, open_bits
from tests.support.stopping import stopped

CLIENTS = 12
BASE = f"""
name = "conformance"
rounds = 4
[data]
clients = {CLIENTS}
partition = "linear"
[model]
name = "linear"
[client]
batch-size = 32
learning-rate = 0.2
[server]
cohort = 4
evaluate-every = 2
[runtime]
engine = "sequential"
"""
TOY = "tests.toys.own_algorithm:FedCM"
NAMES = (*ALGORITHMS, TOY)
FIELDS = (*(name for name, entry in ALGORITHMS.items() if entry.fields), TOY)  # those that have some
FAULTS = ("rounds=5", "faults.dropout=0.2", "faults.nan=0.1")
PRIVACY: dict[str, tuple[str, ...]] = {
    "none": (),
    **{name: (*table, f"privacy.{name}.noise-multiplier=0.8") for name, table in TABLES.items()},
}
BY_CLIENTS = ("none", "dp-sgd", "local-dp")  # with these the server adds no noise
SECAGG = (
    "server.weighting=uniform",
    "privacy.secagg.minimum=2",
    "privacy.secagg.dropout=0.0",
    "privacy.secagg.input-bits=24",
)
# How far the server's value may be from the clients' mean, a share of its largest number: float32 rounds a sum in each of
# the rounds, secure aggregation each number to 24 bits of its range.
PLAIN, ROUNDED = 1e-5, 1e-4


def setting(algorithm: str, *more: str) -> Experiment:
    """Return an experiment with an algorithm."""
    return Experiment.from_toml(BASE, [f"algorithm.name={algorithm}", *more])


def everything(run: fedsim.Run) -> Any:
    """Return all that two runs must have alike: bits, ledger, epsilons, the fields, and what clients keep."""
    state = server_state(run.path)
    values = {
        field: {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in arrays.items()}
        for field, arrays in state["values"].items()
    }
    ledger = run.ledger.read_bytes() if run.ledger.exists() else b""
    return bits(run), ledger, run.manifest["epsilon"], values, state["in-sum"], client_states(run.path)


def kept(algorithm: Algorithm) -> list[str]:
    """Return the fields of which each client keeps a value of its own."""
    return [name for name, field in algorithm.fields.items() if field.kept]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., fedsim.Run]:
    """Return the run of an experiment, which is made once."""
    runs: dict[tuple[str, ...], fedsim.Run] = {}

    def made(*of: str) -> fedsim.Run:
        if of not in runs:
            runs[of] = fedsim.run(setting(*of), tmp_path_factory.mktemp("whole") / "run")
        return runs[of]

    return made


def test_they_are_others_and_have_fields_as_their_entries_say() -> None:
    for name in NAMES:
        experiment = setting(name)
        assert bool(algorithm_of(experiment).fields) is experiment.algorithm_entry.fields is (name in FIELDS)
    assert any(kept(algorithm_of(setting(name))) for name in FIELDS)


def test_each_gives_a_model_of_its_own(whole: Callable[..., fedsim.Run]) -> None:
    models = {(whole(name).path / "model.safetensors").read_bytes() for name in NAMES}
    assert len(models) == len(NAMES)


# --- the same bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "workers"),
    [("scaffold", 2), *(pytest.param(name, 3, marks=pytest.mark.slow) for name in NAMES)],
)
def test_every_engine_gives_the_same_bits_of_model_fields_and_clients(
    name: str, workers: int, whole: Callable[..., fedsim.Run]
) -> None:
    local = fedsim.run(setting(name, *FAULTS, "runtime.engine=local", f"runtime.workers={workers}"), "local")
    assert sum(row["failures"] for row in local.rows) > 2
    assert everything(local) == everything(whole(name, *FAULTS))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_ray_cluster_gives_the_same_bits(whole: Callable[..., fedsim.Run]) -> None:
    pytest.importorskip("ray")
    ray = fedsim.run(setting("scaffold", *FAULTS, "runtime.engine=ray", "runtime.workers=2"), "ray")
    assert everything(ray) == everything(whole("scaffold", *FAULTS))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "privacy",
    ["none", *(pytest.param(mechanism, marks=pytest.mark.slow) for mechanism in TABLES)],
)
def test_stopped_and_resumed_it_ends_with_the_same_model_fields_and_clients(
    name: str, privacy: str, whole: Callable[..., fedsim.Run]
) -> None:
    more = (*FAULTS, *PRIVACY[privacy])
    path = stopped(setting(name, *more), "parts")
    assert everything(fedsim.resume(path)) == everything(whole(name, *more))


def test_without_what_clients_keep_a_resumed_run_would_end_otherwise(
    whole: Callable[..., fedsim.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control of the test above: clients that begin anew.
    path = stopped(setting("scaffold", *FAULTS), "parts")
    monkeypatch.setattr("fedsim.server.checkpoint.decode_records", lambda state: RecordDict())
    assert everything(fedsim.resume(path)) != everything(whole("scaffold", *FAULTS))


# --- with privacy -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("mode", ["", "ideal"])
@pytest.mark.parametrize("privacy", PRIVACY)
def test_under_every_mechanism_the_server_holds_the_mean_of_what_clients_keep(
    name: str, mode: str, privacy: str, whole: Callable[..., fedsim.Run]
) -> None:
    more = (*SECAGG, f"privacy.secagg.mode={mode}") if mode else ()
    run = whole(name, *PRIVACY[privacy], *more)
    assert run.status == "completed"
    assert sum(row["clients"] for row in run.rows) > 0
    values = server_state(run.path)["values"]
    for field in algorithm_of(setting(name)).fields:
        assert all(np.isfinite(array).all() for array in values[field].values())
        assert largest(values[field]) > 1e-4
    for field in kept(algorithm_of(setting(name))):
        gap = distance(values[field], mean(client_values(run.path, field, CLIENTS)))
        if privacy in BY_CLIENTS:
            assert gap <= (ROUNDED if mode else PLAIN) * largest(values[field])
        else:
            assert gap > ROUNDED * largest(values[field])  # the noise of the server, which no client knows


def largest(arrays: dict[str, Any]) -> float:
    """Return the largest absolute number."""
    return max(float(np.abs(array).max()) for array in arrays.values())


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "privacy",
    ["none", "dp-fedavg", *(pytest.param(p, marks=pytest.mark.slow) for p in ("dp-sgd", "dp-ftrl", "local-dp"))],
)  # fmt: skip
def test_real_secure_aggregation_is_the_ideal_one_to_the_bit(
    name: str, privacy: str, whole: Callable[..., fedsim.Run]
) -> None:
    real, ideal = (
        whole(name, *PRIVACY[privacy], *SECAGG, f"privacy.secagg.mode={mode}") for mode in ("real", "ideal")
    )
    assert open_bits(real) == open_bits(ideal)
    assert everything(real)[1:] == everything(ideal)[1:]
    assert real.rows[0]["secagg-bytes-up"] > ideal.rows[0]["secagg-bytes-up"]  # they are not the same run


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("privacy", TABLES)
def test_an_algorithm_changes_nothing_of_the_account(
    name: str, privacy: str, whole: Callable[..., fedsim.Run]
) -> None:
    run, plain = (whole(algorithm, *PRIVACY[privacy]) for algorithm in (name, "fedavg"))
    assert run.ledger.read_bytes() == plain.ledger.read_bytes() != b""
    assert run.manifest["epsilon"] == plain.manifest["epsilon"]
    costs = [[{k: v for k, v in row.items() if "epsilon" in k} for row in each.rows] for each in (run, plain)]
    assert costs[0] == costs[1]
    assert any(costs[0])
    assert (run.path / "model.safetensors").read_bytes() != (plain.path / "model.safetensors").read_bytes()
