"""`fedsim budget dp-sgd`: numbers for machines, tables for people, a picture, and what it refuses."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.privacy.accounting import LocalSteps, known_cohort, released_models

PLAN = "--rate 0.2 --steps 5 --rounds 20 --client-rate 0.1 --delta 1e-5"
RUNNER = CliRunner(env={"COLUMNS": "140"})


def budget(line: str, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["budget", "dp-sgd", *line.split()])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_json_has_both_adversaries_and_the_inputs() -> None:
    tree = json.loads(budget(f"--noise-multiplier 1 {PLAN} --json"))
    local = LocalSteps(noise_multiplier=1.0, rate=0.2, steps=5)
    known = known_cohort(local, 20, 1e-5)
    assert tree.pop("known-cohort") == {"pld": known.pld, "rdp": known.rdp}
    assert tree.pop("released-models") == {"pld": released_models(local, 0.1, 20, 1e-5).pld, "rdp": None}
    assert tree.pop("neighbouring-relation").startswith("zero-out")
    assert tree == {
        "unit": "one record",
        "noise-multiplier": 1.0,
        "rate": 0.2,
        "steps": 5,
        "rounds": 20,
        "client-rate": 0.1,
        "delta": 1e-5,
        "max-participations": None,
        "max-batch": None,
        "records": None,
    }


def test_one_client_and_one_round_is_plain_dp_sgd() -> None:
    tree = json.loads(
        budget("--noise-multiplier 1 --rate 0.1 --steps 100 --rounds 1 --client-rate 1 --delta 1e-5 --json")
    )
    assert tree["known-cohort"]["pld"] == pytest.approx(7.0466, abs=1e-4)
    assert tree["known-cohort"]["rdp"] == pytest.approx(7.9039, abs=1e-4)
    assert tree["released-models"] == {"pld": tree["known-cohort"]["pld"], "rdp": None}


@pytest.mark.parametrize("adversary", ["known-cohort", "released-models"])
def test_epsilon_in_noise_out(adversary: str) -> None:
    chosen = "" if adversary == "known-cohort" else f"--adversary {adversary}"  # the default
    tree = json.loads(budget(f"--epsilon 4 {chosen} {PLAN} --json"))
    assert (tree["epsilon"], tree["adversary"]) == (4.0, adversary)
    assert 3.99 < tree[adversary]["pld"] <= 4


def test_a_participation_budget_leaves_no_theorem_for_released_models() -> None:
    line = f"--noise-multiplier 1 {PLAN} --max-participations 5"
    tree = json.loads(budget(f"{line} --json"))
    assert (tree["released-models"], tree["max-participations"]) == (None, 5)
    local = LocalSteps(noise_multiplier=1.0, rate=0.2, steps=5)
    assert tree["known-cohort"]["pld"] == known_cohort(local, 5, 1e-5).pld
    table = budget(line)
    assert "at most 5 participations" in table
    assert "Released models, unavailable: there is no theorem, as a client that stops" in table
    assert "Over cohorts" not in table


def test_cut_batches_have_no_renyi_bound() -> None:
    line = "--noise-multiplier 1 --rate 0.2 --steps 2 --delta 1e-3 --max-batch 15 --records 36"
    tree = json.loads(budget(f"{line} --json"))
    assert (tree["known-cohort"]["rdp"], tree["max-batch"], tree["records"]) == (None, 15, 36)
    table = budget(line)
    assert "batches of at most 15 of 36 records" in table
    assert "RDP, unavailable: dp-accounting has no theorem" in table


def test_tables_say_what_each_number_stands_on() -> None:
    text = budget(f"--noise-multiplier 1 {PLAN}")
    for title in (
        "Over rounds: noise multiplier 1, rate 0.2, 5 local steps, client rate 0.1, delta 1e-05",
        "Over noise: rate 0.2, 5 local steps, 20 rounds, client rate 0.1, delta 1e-05",
        "Over cohorts: noise multiplier 1, rate 0.2, 5 local steps, 20 rounds, delta 1e-05",
        "Protects one record; neighbours: zero-out",
    ):
        assert title in text
    local = LocalSteps(noise_multiplier=1.0, rate=0.2, steps=5)
    known, released = known_cohort(local, 20, 1e-5), released_models(local, 0.1, 20, 1e-5)
    last = next(line for line in text.splitlines() if line.split()[:1] == ["20"])
    assert last.split() == ["20", *(f"{value:#.4g}" for value in (known.pld, known.rdp, released.pld))]


def test_infinite_is_null_for_machines_and_said_to_people() -> None:
    line = "--noise-multiplier 1 --rate 0.2 --steps 1 --client-rate 0.5 --delta 1e-30"
    assert json.loads(budget(f"{line} --json"))["released-models"] == {"pld": None, "rdp": None}
    assert "infinite" in budget(line)
    assert not math.isinf(json.loads(budget(f"{line} --json"))["known-cohort"]["rdp"])


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("--rounds 2 --client-rate 0.1", marks=pytest.mark.slow),
        "--rounds 1",
        "--rounds 3 --max-participations 2",
    ],
)
def test_a_picture_is_drawn(more: str, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    budget(f"--noise-multiplier 2 --rate 0.5 --steps 2 --delta 1e-3 {more} --json --out {picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (PLAN, "--noise-multiplier, --epsilon: exactly one of them is needed; given: none"),
        (f"--noise-multiplier 1 --epsilon 1 {PLAN}", "exactly one of them is needed; given: both"),
        (f"--noise-multiplier 0 {PLAN}", "--noise-multiplier 0.0: must be above 0"),
        (f"--noise-multiplier -1 {PLAN}", "--noise-multiplier -1.0: must be above 0"),
        (f"--noise-multiplier nan {PLAN}", "noise multiplier = nan: must be 0 or more, and finite"),
        (f"--epsilon 0 {PLAN}", "epsilon = 0.0: must be above 0"),
        (
            f"--epsilon 1e-3 {PLAN} --delta 1e-30",
            "epsilon = 0.001: no noise multiplier up to 1e+06 reaches it",
        ),
        (f"--noise-multiplier 1 {PLAN} --rate 1.5", "rate = 1.5: must be above 0 and at most 1"),
        (f"--noise-multiplier 1 {PLAN} --steps 0", "steps = 0: must be 1 or more"),
        (f"--noise-multiplier 1 {PLAN} --rounds 0", "--rounds 0: must be 1 or more"),
        (f"--noise-multiplier 1 {PLAN} --client-rate 0", "client rate = 0.0: must be above 0"),
        (f"--noise-multiplier 1 {PLAN} --delta 1", "delta = 1.0: must be above 0 and below 1"),
        (
            f"--noise-multiplier 1 {PLAN} --max-participations 21",
            "--max-participations 21: must be 1 to --rounds 20",
        ),
        (f"--noise-multiplier 1 {PLAN} --max-batch 8", "max batch = 8: needs the number of records"),
        (
            f"--noise-multiplier 1 {PLAN} --adversary known-cohort",
            "--adversary known-cohort: is for --epsilon",
        ),
        (
            f"--epsilon 1 {PLAN} --adversary released-models --max-participations 3",
            "--adversary released-models: has no theorem with --max-participations",
        ),
    ],
)
def test_what_is_refused(line: str, says: str) -> None:
    text = budget(line, code=2)
    assert says in text
    assert len(text.splitlines()) == 1


def test_a_picture_that_cannot_be_written_is_refused_and_nothing_printed(tmp_path: Path) -> None:
    line = "--noise-multiplier 2 --rate 0.5 --steps 2 --delta 1e-3"
    result = RUNNER.invoke(app, ["budget", "dp-sgd", *line.split(), "--out", str(tmp_path / "no" / "x.png")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("fedsim: --out ")


def test_help_explains_the_letters() -> None:
    result = RUNNER.invoke(app, ["budget", "dp-sgd", "--help"])
    assert result.exit_code == 0
    assert "a record's epsilon for each adversary" in result.stdout
    assert "budget" in RUNNER.invoke(app, ["--help"]).stdout
