import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsim import Experiment, catalogue
from fedsim.schema import schema
from fedsim.sweeps.plan import is_sweep_file
from tests.conftest import CONFIGS

ROOT = Path(__file__).parents[2]
EXPERIMENTS = [path for path in sorted(CONFIGS.glob("*.toml")) if not is_sweep_file(path)]


@given(
    st.sampled_from(list(catalogue.STRATEGIES)),
    st.integers(0, 2**63 - 1),
    st.floats(1e-6, 10),
    st.sampled_from(["iid", "dirichlet", "shard", "pathological"]),
)
def test_an_experiment_survives_toml(strategy: str, seed: int, rate: float, partition: str) -> None:
    experiment = Experiment(
        seed=seed,
        server={"strategy": strategy},
        client={"learning-rate": rate},
        data={"partition": partition},
    )
    assert Experiment.from_toml(experiment.to_toml()) == experiment
    assert Experiment.from_run_config(experiment.to_run_config()) == experiment


def test_python_names_and_toml_keys_are_the_same() -> None:
    assert Experiment(client={"learning_rate": 0.3}) == Experiment(client={"learning-rate": 0.3})


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Experiment().seed = 1


def test_overrides_read_toml_values_and_bare_words() -> None:
    experiment = Experiment.from_toml(
        "rounds = 2",
        ["rounds=3", "data.partition=iid", 'model.name="mlp"', "model.hidden=[5]", "client.batch_size=4"],
    )
    assert (experiment.rounds, experiment.data.partition, experiment.client.batch_size) == (3, "iid", 4)
    assert experiment.model.pick(experiment.model.entry).hidden == [5]


def test_another_name_drops_the_options_of_the_former_one() -> None:
    text = "[data]\nalpha = 0.3\nmin-size = 2\n[server]\nstrategy = 'fedadam'\n[server.options]\neta = 0.5\ntau = 0.1"
    experiment = Experiment.from_toml(text, ["data.partition=inner-dirichlet", "server.strategy=fedavg"])
    assert experiment.data.pick(experiment.data.partition_entry).alpha == 0.3  # both have it
    assert experiment.server.options == {}


def test_another_optimizer_or_schedule_drops_what_went_with_the_former_one() -> None:
    text = "[client]\nmomentum = 0.9\nweight-decay = 0.1\nlearning-rate-decay = 0.97"
    client = Experiment.from_toml(text, ["client.optimizer=adam", "client.schedule=cosine"]).client
    assert (client.momentum, client.weight_decay, client.learning_rate_decay) == (0.0, 0.1, 1.0)
    assert client.optimizer_options == {"beta-1": 0.9, "beta-2": 0.999, "eps": 1e-8}
    text = "[client]\noptimizer = 'adam'\n[client.optimizer-options]\nbeta-1 = 0.5"
    client = Experiment.from_toml(text, ["client.optimizer=adamw"]).client
    assert client.optimizer_arguments == {"beta_1": 0.5, "beta_2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    client = Experiment.from_toml(text, ["client.optimizer=sgd", "client.momentum=0.9"]).client
    assert client.optimizer_arguments == {"momentum": 0.9, "weight_decay": 0.0}


def test_an_experiment_without_an_optimizers_name_is_written_as_before_there_were_any() -> None:
    written = tomllib.loads(Experiment().to_toml())["client"]
    known = {"epochs", "batch-size", "learning-rate", "learning-rate-decay", "momentum", "weight-decay"}
    assert written.keys() == known | {"proximal-mu"}
    named = Experiment(client={"optimizer": "adamw", "schedule": "step", "schedule-options": {"every": 3}})
    assert Experiment.from_toml(named.to_toml()) == named
    assert tomllib.loads(named.to_toml())["client"]["schedule-options"] == {"every": 3, "gamma": 0.1}


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "a.toml"
    file.write_text("[data]\nsource = 'npz'\npath = '../data.npz'")
    experiment = Experiment.load(file)
    assert experiment.data.pick(experiment.data.source_entry).path == str(tmp_path / "data.npz")


def test_a_run_config_may_name_a_file_and_override_it(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("rounds = 7\nseed = 3")
    experiment = Experiment.from_run_config(
        {"experiment": str(file), "set": "seed=4 client.learning-rate=0.5"}
    )
    assert (experiment.rounds, experiment.seed, experiment.client.learning_rate) == (7, 4, 0.5)


def test_the_flower_apps_default_config_is_the_quickstart() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert Experiment.from_run_config(config) == Experiment.load(CONFIGS / "quickstart.toml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_the_experiments_of_the_repository_are_valid(path: Path) -> None:
    assert Experiment.load(path).name == path.stem


@pytest.mark.parametrize("entry", catalogue.STRATEGIES.values(), ids=lambda entry: entry.name)
def test_a_strategys_options_are_flowers_arguments(entry: catalogue.StrategyEntry) -> None:
    arguments = inspect.signature(entry.load()).parameters
    for name, field in entry.options.model_fields.items():
        assert name in arguments
        default = arguments[name].default
        if entry.name not in ("fedprox", "fedavgm"):  # Flower's defaults make these two FedAvg
            assert default == field.default, name


@pytest.mark.parametrize(
    "entry",
    [e for t in (catalogue.SOURCES, catalogue.PARTITIONS, catalogue.MODELS) for e in t.values()],
    ids=lambda entry: entry.name,
)
def test_every_entry_can_be_loaded(entry: catalogue.Entry) -> None:
    assert callable(entry.load())


def test_the_schema_takes_what_an_experiment_takes() -> None:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(schema())
    for path in EXPERIMENTS:
        validator.validate(tomllib.loads(path.read_text()))

    def errors(tree: dict[str, Any]) -> int:
        return len(list(validator.iter_errors(tree)))

    assert errors({"rounds": 0}) == 1
    assert errors({"data": {"source": "nowhere"}}) == 1
    assert errors({"data": {"source": "mine:load"}}) == 0
    assert errors({"data": {"alfa": 0.5}}) == 1
    assert errors({"client": {"batch-size": "ten"}}) == 1
    assert errors({"client": {"optimizer": "adam", "optimizer-options": {"beta-1": "much"}}}) == 1
    assert errors({"algorithm": {"name": "scaffold", "control-scale": 0}}) == 1
    assert errors({"algorithm": {"control-scale": 0.5}}) == 1  # without a name
    assert errors({"algorithm": {"name": "mine:Own", "alpha": 0.5}}) == 0
    assert errors({"client": {"schedule": "step", "schedule-options": {"every": 5}}}) == 0
