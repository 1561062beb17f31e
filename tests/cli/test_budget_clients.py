"""`fedsim budget dp-fedavg` and `local-dp`: numbers for machines, tables for people, and what they refuse."""

import json
import math
from typing import Any

import pytest
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.privacy.dp_fedavg import accounting as central
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism
from fedsim.privacy.events import Relation, Sampling
from fedsim.privacy.local_dp import accounting as local

PLAN = "--client-rate 0.1 --rounds 20 --delta 1e-5"
RUNNER = CliRunner(env={"COLUMNS": "150"})


def budget(line: str, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["budget", *line.split()])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def tree_of(line: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(budget(f"{line} --json"))
    return tree


def bounds(answer: central.AdversaryCost) -> dict[str, float | None]:
    assert answer.epsilon is not None
    return {"pld": answer.epsilon.pld, "rdp": answer.epsilon.rdp}


def test_json_has_each_adversary_and_the_inputs() -> None:
    tree = tree_of(f"dp-fedavg --noise-multiplier 1.5 {PLAN}")
    answers = central.side_by_side(CohortMechanism(noise_multiplier=1.5, rate=0.1), 20, 1e-5)
    server = tree.pop("server")
    assert (server["pld"], server["rdp"]) == (None, None)  # infinite, and JSON knows no infinity
    assert server["why"].startswith("trusted")
    for name in ("known-cohort", "released-models"):
        assert tree.pop(name) == bounds(answers[name]) | {"relation": "zero-out", "why": ""}
    assert tree.pop("neighbouring-relation").startswith("zero-out")
    assert tree == {
        "unit": "one client",
        "noise-multiplier": 1.5,
        "rounds": 20,
        "client-rate": 0.1,
        "sampling": "poisson",
        "clients": None,
        "cohort": None,
        "max-cohort": None,
        "participations": None,
        "delta": 1e-5,
    }


@pytest.mark.parametrize(
    ("more", "adversary"),
    [
        ("", "released-models"),
        ("--adversary known-cohort", "known-cohort"),
        ("--participations 4", "known-cohort"),
    ],
)
def test_epsilon_in_noise_out(more: str, adversary: str) -> None:
    tree = tree_of(f"dp-fedavg --epsilon 4 {PLAN} {more}")
    assert (tree["epsilon"], tree["adversary"]) == (4.0, adversary)
    assert 3.98 < tree[adversary]["pld"] <= 4


@pytest.mark.slow
def test_what_cohort_and_population_it_takes() -> None:
    line = f"dp-fedavg --epsilon 2 {PLAN} --mean-noise 0.01"
    tree = tree_of(line)
    cohort, clients = tree["needs"]["cohort"], tree["needs"]["clients"]
    assert cohort == math.ceil(tree["noise-multiplier"] / 0.01)
    assert clients == math.ceil(cohort / 0.1)
    # Asked the other way round, that cohort of that population has the epsilon with that noise on the mean.
    back = tree_of(
        f"dp-fedavg --noise-multiplier {0.01 * cohort} --rounds 20 --delta 1e-5 --clients {clients} --cohort {cohort}"
    )
    assert 1.9 < back["released-models"]["pld"] <= 2
    text = budget(line)
    assert f"cohorts of {cohort:,} of {clients:,} clients" in text
    row = next(row for row in text.splitlines() if row.split()[:1] == ["0.1"])
    assert row.split()[2:] == [f"{cohort:,}", f"{clients:,}"]


def test_fixed_cohorts_print_their_epsilon_and_that_of_poisson_sampling() -> None:
    line = (
        "dp-fedavg --noise-multiplier 1 --rounds 100 --delta 1e-5 --clients 1000 --cohort 10 --sampling fixed"
    )
    tree = tree_of(line)
    release = CohortMechanism(noise_multiplier=1.0, rate=0.01, sampling=Sampling.FIXED, clients=1000)
    fixed = central.released_models(release, 100, 1e-5)
    assert {key: tree["released-models"][key] for key in ("pld", "rdp")} == bounds(fixed)
    assert "replace-one" in tree["released-models"]["why"]
    poisson = central.released_models(CohortMechanism(noise_multiplier=1.0, rate=0.01), 100, 1e-5)
    assert tree["with-poisson-cohorts"]["pld"] == bounds(poisson)["pld"]
    assert tree["with-poisson-cohorts"]["pld"] < 0.1 * tree["released-models"]["rdp"]
    text = budget(line)
    assert f"Poisson cohorts would give {tree['with-poisson-cohorts']['pld']:#.4g} (PLD)" in text
    assert "Noise on the mean update: 0.1 clip norms" in text


def test_truncated_cohorts() -> None:
    line = "dp-fedavg --noise-multiplier 1 --rounds 2 --delta 1e-5 --clients 1000 --cohort 10 --max-cohort 26"
    tree = tree_of(line)
    assert (tree["sampling"], tree["max-cohort"]) == ("truncated-poisson", 26)
    assert tree["released-models"]["rdp"] is None
    text = budget(line)
    assert "truncated-poisson cohorts of at most 26 of 1,000" in text
    assert "no RDP, for there is no theorem for cohorts that are cut" in text


def test_a_population_is_beside_and_not_in_the_place_of_the_runs_own() -> None:
    line = "dp-fedavg --noise-multiplier 0.1 --rounds 10 --delta 1e-7 --clients 1000 --cohort 20 --population 100000 1000"
    tree = tree_of(line)
    deployed = CohortMechanism(noise_multiplier=5.0, rate=0.01, clients=100_000)
    assert tree["population"]["noise-multiplier"] == pytest.approx(5.0)
    expected = bounds(central.released_models(deployed, 10, 1e-7))
    assert tree["population"]["released-models"]["pld"] == pytest.approx(expected["pld"], rel=1e-9)
    assert tree["released-models"]["pld"] > 100
    assert "hypothetically" in budget(line)


def test_another_relation_leaves_known_cohorts_without_a_number() -> None:
    line = f"dp-fedavg --noise-multiplier 1.5 {PLAN} --relation add-or-remove-one"
    tree = tree_of(line)
    assert tree["known-cohort"]["pld"] is None
    assert tree["released-models"]["relation"] == "add-or-remove-one"
    assert tree["neighbouring-relation"].startswith("add-or-remove-one")
    assert "Known cohort, unavailable: who knows the cohorts sees" in budget(line)


def test_a_declared_rate_stands_beside_the_cohort_that_the_mean_is_over() -> None:
    line = "dp-fedavg --noise-multiplier 4 --rounds 100 --delta 1e-3 --relation add-or-remove-one --client-rate 0.5"
    tree = tree_of(f"{line} --cohort 10")
    assert tree["released-models"]["pld"] == pytest.approx(4.253, abs=1e-3)
    assert (tree["client-rate"], tree["cohort"], tree["clients"]) == (0.5, 10, None)
    text = budget(f"{line} --cohort 10")
    assert "Noise on the mean update: 0.4 clip norms" in text
    assert "the rate is declared, whatever their number" in text
    deployed = tree_of(f"{line} --cohort 10 --population 900 20")["population"]
    assert deployed["noise-multiplier"] == pytest.approx(8.0)


def test_tables_say_what_each_number_stands_on() -> None:
    text = budget(f"dp-fedavg --noise-multiplier 1.5 {PLAN}")
    for words in (
        "Protects one client; neighbours: zero-out",
        "Over rounds: noise multiplier 1.5, client rate 0.1, poisson cohorts, delta 1e-05",
        "Over noise: 20 rounds, client rate 0.1, poisson cohorts, delta 1e-05",
        "Over cohorts: noise multiplier 1.5, 20 rounds, poisson cohorts, delta 1e-05",
        "Server: infinite. It is trusted",
    ):
        assert words in text
    release = CohortMechanism(noise_multiplier=1.5, rate=0.1)
    known, released = (
        central.side_by_side(release, 20, 1e-5)[name] for name in ("known-cohort", "released-models")
    )
    last = next(line for line in text.splitlines() if line.split()[:1] == ["20"])
    values = [*bounds(known).values(), *bounds(released).values()]
    assert last.split() == ["20", *(f"{value:#.4g}" for value in values)]


def test_local_gaussian_noise() -> None:
    tree = tree_of("local-dp --epsilon 8 --rounds 100 --participations 10 --delta 1e-5")
    noise = local.noise_for(8.0, 10, 1e-5)
    assert tree["noise-multiplier"] == noise
    assert tree["server"]["pld"] == local.epsilon_of(noise, 10, 1e-5).pld
    assert tree["neighbouring-relation"].startswith(Relation.REPLACE_ONE)
    assert {key: tree[key] for key in ("law", "rounds", "participations", "delta", "epsilon", "unit")} == {
        "law": "gaussian",
        "rounds": 100,
        "participations": 10,
        "delta": 1e-5,
        "epsilon": 8.0,
        "unit": "one client",
    }
    text = budget("local-dp --noise-multiplier 2 --rounds 4 --delta 1e-5")
    last = next(line for line in text.splitlines() if line.split()[:1] == ["4"])
    assert last.split() == [
        "4",
        *(f"{value:#.4g}" for value in vars(local.epsilon_of(2.0, 4, 1e-5)).values()),
    ]
    assert "on the update, it is 4 clip norms" in text


def test_local_laplace_noise_has_a_pure_epsilon() -> None:
    tree = tree_of("local-dp --law laplace --epsilon 2 --rounds 10")
    assert (tree["noise-multiplier"], tree["delta"]) == (5.0, 0.0)
    assert tree["server"] == {"pld": 2.0, "rdp": None}
    assert "laplace noise, delta 0" in budget("local-dp --law laplace --noise-multiplier 5 --rounds 10")


NOISY = f"dp-fedavg --noise-multiplier 1 {PLAN}"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"dp-fedavg {PLAN}", "--noise-multiplier, --epsilon: exactly one of them is needed; given: none"),
        (f"{NOISY} --epsilon 1", "exactly one of them is needed; given: both"),
        (f"dp-fedavg --noise-multiplier 0 {PLAN}", "noise multiplier = 0.0: must be above 0"),
        (f"dp-fedavg --epsilon -1 {PLAN}", "epsilon = -1.0: must be above 0"),
        (f"{NOISY} --rounds 0", "--rounds 0: must be 1 or more"),
        (f"{NOISY} --delta 1", "delta = 1.0: must be above 0 and below 1"),
        (f"{NOISY} --client-rate 2", "client rate = 2.0: must be above 0 and at most 1"),
        (f"{NOISY} --cohort 5", "--client-rate 0.1: can't stand beside --cohort"),
        (
            "dp-fedavg --noise-multiplier 1 --rounds 1 --delta 1e-5 --cohort 5",
            "--cohort 5: must be 1 to --clients",
        ),
        (f"{NOISY} --sampling fixed", "sampling = fixed: needs the number of clients"),
        (f"{NOISY} --max-cohort 5", "sampling = truncated-poisson: needs the number of clients"),
        (f"{NOISY} --clients 200000", "must be below 1 / clients = 1 / 200000"),
        (f"{NOISY} --participations 21", "--participations 21: must be 1 to --rounds 20"),
        (f"{NOISY} --adversary known-cohort", "--adversary known-cohort: is for --epsilon"),
        (f"{NOISY} --mean-noise 0.1", "--mean-noise 0.1: is for --epsilon"),
        (f"{NOISY} --population 10 2", "--population: needs --clients and --cohort"),
        (
            f"dp-fedavg --epsilon 1 {PLAN} --participations 3 --adversary released-models",
            "not Poisson-sampled",
        ),
        (
            f"dp-fedavg --epsilon 1 {PLAN} --relation add-or-remove-one --adversary known-cohort",
            "sees whether a client is there",
        ),
        (
            f"{NOISY} --relation add-or-remove-one --clients 1000",
            "--clients 1000: is what --relation add-or-remove-one protects",
        ),
        (
            "dp-fedavg --noise-multiplier 1 --rounds 1 --delta 1e-5 --relation add-or-remove-one",
            "--relation add-or-remove-one: needs a declared rate; allowed: --client-rate, or zero-out",
        ),
        (
            f"{NOISY} --relation add-or-remove-one --sampling fixed",
            "sampling = fixed: its distribution depends on the number of clients, which add-or-remove-one protects",
        ),
        (
            f"{NOISY} --relation add-or-remove-one --max-cohort 5",
            "sampling = truncated-poisson: its distribution depends on the number of clients",
        ),
        (
            f"{NOISY} --relation add-or-remove-one --cohort 20000",
            "must be below 1 / (cohort / rate) = 1 / 200000",
        ),
        (
            f"dp-fedavg --epsilon 1 {PLAN} --mean-noise 1e-6 --json",
            "the number that this noise needs",
        ),
        (
            "dp-fedavg --noise-multiplier 1 --rounds 1 --delta 1e-5 --clients 1000 --cohort 5 --population 1000000 10",
            "must be below 1 / clients = 1 / 1000000",
        ),
        ("local-dp --rounds 1 --delta 1e-5", "exactly one of them is needed; given: none"),
        ("local-dp --epsilon 1 --rounds 1", "--delta None: is needed for Gaussian noise"),
        (
            "local-dp --epsilon 1 --rounds 1 --law laplace --delta 1e-5",
            "--delta 1e-05: is needed for Gaussian",
        ),
        ("local-dp --epsilon 0 --rounds 1 --delta 1e-5", "epsilon = 0.0: must be above 0"),
        ("local-dp --noise-multiplier 0 --rounds 1 --delta 1e-5", "noise multiplier = 0.0: must be above 0"),
        ("local-dp --epsilon 1 --rounds 3 --participations 4 --delta 1e-5", "must be 1 to --rounds 3"),
        ("local-dp --epsilon 1 --rounds 0 --delta 1e-5", "--rounds 0: must be 1 or more"),
    ],
)
def test_what_is_refused(line: str, says: str) -> None:
    text = budget(line, code=2)
    assert says in text
    assert len(text.splitlines()) == 1


def test_help_explains_the_letters() -> None:
    for command, words in (
        ("dp-fedavg", "a client's epsilon for each adversary"),
        ("local-dp", "does not trust the server"),
    ):
        assert words in budget(f"{command} --help")
        assert command in budget("--help")
