"""What holds for every mechanism, by what a user sees: `fedsim.run`, the run directory, its ledger and its manifest.

A new mechanism gets a line in `CASES`. What is peculiar to one stands in the tests of its own runs.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment, Refused
from tests.support.runs import bits, open_bits, private_bits
from tests.support.stopping import stopped

BASE = """
name = "conformance"
rounds = 4
[data]
clients = 12
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
SECAGG = ("privacy.secagg.minimum=2", "privacy.secagg.dropout=0.0")
# What each mechanism's table and its cohorts must have; the noise, or the epsilon, is added.
TABLES: dict[str, tuple[str, ...]] = {
    "dp-sgd": ("privacy.dp-sgd.delta=1e-4",),
    "dp-fedavg": ("privacy.dp-fedavg.delta=1e-3", "privacy.dp-fedavg.clip=0.05"),
    "dp-ftrl": (
        "privacy.dp-ftrl.delta=1e-3",
        "privacy.dp-ftrl.clip=0.05",
        "privacy.dp-ftrl.min-separation=2",
        "server.sampling=b-min-sep",
    ),
    "local-dp": ("privacy.local-dp.delta=1e-3", "privacy.local-dp.clip=0.5"),
}
BY_CLIENTS = (
    "dp-sgd",
    "local-dp",
)  # these release, each by itself; of the others the server does, once a round
ADVERSARY = {
    "dp-sgd": "known-cohort",
    "dp-fedavg": "released-models",
    "dp-ftrl": "known-cohort",
    "local-dp": "server",
}  # default adversary of epsilon
BESIDE_THE_UPDATE = (
    "privacy.dp-fedavg.adaptive.quantile=0.5",
    "privacy.dp-fedavg.adaptive.bit-noise=2.0",
    "privacy.dp-fedavg.release.train-loss.bound=5.0",
    "privacy.dp-fedavg.release.train-loss.noise=2.0",
)
# Variants of a mechanism that have a state or a noise of their own.
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "dp-sgd": ("dp-sgd", ("server.sampling=poisson", "privacy.dp-sgd.max-participations=3")),
    "dp-fedavg": ("dp-fedavg", ("server.sampling=poisson",)),
    "dp-fedavg all": (
        "dp-fedavg",
        (*SECAGG, "privacy.secagg.mode=ideal", *BESIDE_THE_UPDATE),
    ),
    "dp-fedavg in clear": (
        "dp-fedavg",
        ("server.sampling=poisson", "server.strategy=fedadam", *BESIDE_THE_UPDATE),
    ),
    "dp-ftrl": ("dp-ftrl", ("server.strategy=fedadam",)),
    "dp-ftrl blt": ("dp-ftrl", ("privacy.dp-ftrl.mechanism=blt",)),
    "dp-ftrl root": ("dp-ftrl", ("privacy.dp-ftrl.mechanism=sqrt-toeplitz",)),
    "local-dp": ("local-dp", ("privacy.local-dp.max-participations=3",)),
}


EVERY = [
    pytest.param(name, marks=pytest.mark.slow) if name == "dp-fedavg in clear" else name for name in CASES
]


def private(mechanism: str, *overrides: str, noise: str = "noise-multiplier=0.8") -> Experiment:
    """Return an experiment with a mechanism."""
    return Experiment.from_toml(BASE, [*TABLES[mechanism], f"privacy.{mechanism}.{noise}", *overrides])


def case(name: str, *more: str) -> Experiment:
    """Return the experiment of a case."""
    mechanism, overrides = CASES[name]
    return private(mechanism, *overrides, *more)


def lines_of(run: fedsim.Run) -> list[dict[str, Any]]:
    """Return the ledger's lines."""
    return [json.loads(line) for line in run.ledger.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], fedsim.Run]:
    """Return the run of a case, which is made once."""
    runs: dict[str, fedsim.Run] = {}

    def made(name: str) -> fedsim.Run:
        if name not in runs:
            runs[name] = fedsim.run(case(name), tmp_path_factory.mktemp("whole") / "run")
        return runs[name]

    return made


def test_every_mechanism_is_among_the_cases() -> None:
    section = Experiment.model_fields["privacy"].annotation
    tables = {
        name.replace("_", "-")
        for name, field in section.model_fields.items()  # type: ignore[union-attr]
        if field.default is None
    }
    assert tables - {"own", "secagg"} == set(TABLES) == {mechanism for mechanism, _ in CASES.values()}


# --- the same bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("dp-fedavg all", 1),
        *(pytest.param(name, 3, marks=pytest.mark.slow) for name in CASES),
    ],
)
def test_every_engine_gives_the_same_bits_and_the_same_ledger(
    name: str, workers: int, whole: Callable[[str], fedsim.Run]
) -> None:
    setting = case(name, "runtime.engine=local", f"runtime.workers={workers}")
    assert private_bits(fedsim.run(setting, "local")) == private_bits(whole(name))


@pytest.mark.parametrize("name", EVERY)
def test_killed_and_resumed_it_ends_with_the_same_weights_ledger_and_epsilon(
    name: str, whole: Callable[[str], fedsim.Run]
) -> None:
    path = stopped(case(name), "parts")
    ledger = path / "ledger.jsonl"
    with ledger.open("a") as file:  # of a round that no checkpoint holds
        file.write(ledger.read_text().splitlines()[0] + "\n")
    assert private_bits(fedsim.resume(path)) == private_bits(whole(name))


@pytest.mark.parametrize("mechanism", TABLES)
def test_another_seed_gives_other_bits(mechanism: str, whole: Callable[[str], fedsim.Run]) -> None:
    other = fedsim.run(case(mechanism, "seed=1"), "other")
    assert bits(other)[0] != bits(whole(mechanism))[0]


@pytest.mark.parametrize("mechanism", TABLES)
def test_real_secure_aggregation_is_the_ideal_one_to_the_bit(mechanism: str) -> None:
    real, ideal = (
        fedsim.run(private(mechanism, *SECAGG, "rounds=2", f"privacy.secagg.mode={mode}"), mode)
        for mode in ("real", "ideal")
    )
    assert open_bits(real) == open_bits(ideal)
    assert real.ledger.read_bytes() == ideal.ledger.read_bytes() != b""
    assert real.manifest["epsilon"] == ideal.manifest["epsilon"]
    assert real.rows[0]["secagg-bytes-up"] > ideal.rows[0]["secagg-bytes-up"]  # they are not the same run


# --- the account --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_the_ledger_has_each_release_once(name: str, whole: Callable[[str], fedsim.Run]) -> None:
    run, (mechanism, _) = whole(name), CASES[name]
    events = lines_of(run)
    rounds = Counter(event["round"] for event in events)
    if mechanism in BY_CLIENTS:
        assert rounds == {row["round"]: row["clients"] for row in run.rows if row["clients"]}
        releases = [(event["round"], event["client"]) for event in events]
        assert sorted(set(releases)) == releases
    else:
        assert rounds == dict.fromkeys(range(1, 5), 1)
        assert {event.get("client") for event in events} == {None}
    assert {event["noise"] for event in events} == {"seeded"}
    assert len({event["mechanism"] for event in events}) == 1


@pytest.mark.parametrize("name", EVERY)
def test_no_epsilon_stands_without_its_terms_or_below_what_was_spent(
    name: str, whole: Callable[[str], fedsim.Run]
) -> None:
    run, (mechanism, _) = whole(name), CASES[name]
    said = run.manifest["epsilon"]
    finite = {who: terms for who, terms in said.items() if isinstance(terms.get("epsilon"), float)}
    assert ADVERSARY[mechanism] in finite
    for who, terms in finite.items():
        assert {"who", "unit", "relation", "delta", "noise", "noise-multiplier"} <= terms.keys()
        assert "seed" in terms["noise"]
        assert 0 < terms["spent"] == run.rows[-1][f"epsilon-{who}"] <= terms["epsilon"]
        assert 0 < run.rows[1][f"epsilon-{who}"] <= terms["spent"]
        assert f"epsilon-{who}" not in run.rows[0]  # which was not evaluated


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", TABLES)
def test_the_noise_is_the_least_that_keeps_an_epsilon(mechanism: str) -> None:
    run = fedsim.run(private(mechanism, "rounds=2", noise="epsilon=3.0"), "run")
    said = run.manifest["epsilon"][ADVERSARY[mechanism]]
    assert 2.9 < said["epsilon"] <= 3.0
    events = lines_of(run)
    assert events
    for event in events:
        noise = event["parts"][0]["noise-multiplier"] if "parts" in event else event["noise-multiplier"]
        assert noise == pytest.approx(said["noise-multiplier"], rel=1e-12)


@pytest.mark.parametrize("mechanism", BY_CLIENTS)
def test_a_client_refuses_to_take_part_more_often_than_it_may(mechanism: str) -> None:
    overrides = ("server.cohort=12", f"privacy.{mechanism}.max-participations=2")
    with pytest.raises(
        fedsim.RunFailed, match="has taken part in 2 rounds, all that max-participations allows"
    ):
        fedsim.run(private(mechanism, *overrides), "run")
    run = fedsim.load_run("run")
    assert Counter(event["client"] for event in lines_of(run)) == dict.fromkeys(range(12), 2)
    assert run.manifest["epsilon"][ADVERSARY[mechanism]]["participations"] == 2


# --- noise of the operating system ----------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", TABLES)
def test_the_systems_noise_is_new_each_time_and_no_loss_is_sent(mechanism: str) -> None:
    setting = private(mechanism, "privacy.noise=os", "rounds=1")
    first, second = (fedsim.run(setting, f"run-{i}") for i in range(2))
    assert bits(first)[0] != bits(second)[0]
    assert {event["noise"] for run in (first, second) for event in lines_of(run)} == {"os"}
    assert "train-loss" not in first.private_rows[0]
    assert "operating system" in first.manifest["epsilon"][ADVERSARY[mechanism]]["noise"]
    seeded = fedsim.run(private(mechanism, "rounds=1"), "seeded")
    assert "train-loss" in seeded.rows[0]  # the control


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", TABLES)
def test_parameters_without_a_guarantee_are_refused_before_writing(mechanism: str) -> None:
    table = f"privacy.{mechanism}"
    other = "local-dp" if mechanism != "local-dp" else "dp-fedavg"
    refused = {
        f"{table}.noise-multiplier = 0.8: can't stand beside epsilon": (f"{table}.epsilon=1.0",),
        f"{table}.delta = 0.3: must be below 1 /": (f"{table}.delta=0.3",),
        "can't stand beside": (*TABLES[other], f"privacy.{other}.noise-multiplier=1.0"),
        "server.strategy = 'qfedavg': ": ("server.strategy=qfedavg",),
    }
    for line, overrides in refused.items():
        with pytest.raises(Refused) as told:
            fedsim.run(Experiment.from_toml(BASE, said_once(mechanism, overrides)), "run")
        assert line in str(told.value)
        assert "\n" not in str(told.value)
    assert not Path("run").exists()


def said_once(mechanism: str, overrides: tuple[str, ...]) -> list[str]:
    """Return the mechanism's overrides and others, which come in the place of those of the same key."""
    every = [*TABLES[mechanism], f"privacy.{mechanism}.noise-multiplier=0.8", *overrides]
    return list({override.partition("=")[0]: override for override in every}.values())
