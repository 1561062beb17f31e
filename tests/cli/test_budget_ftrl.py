"""`fedsim budget dp-ftrl`: numbers for machines, tables for people, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.privacy.dp_ftrl.accounting import Groups, epsilon_amplified, epsilon_gaussian

RUNNER = CliRunner(env={"COLUMNS": "140"})
PLAIN = "--rounds 128 --delta 1e-6 --min-separation 32"
SAMPLED = "--rounds 60 --delta 1e-5 --bands 5 --client-rate 0.02"


def budget(line: str, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["budget", "dp-ftrl", *line.split()])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_json_has_the_adversaries_the_errors_and_the_inputs() -> None:
    tree = json.loads(budget(f"--noise-multiplier 4 {PLAIN} --json"))
    epsilon = epsilon_gaussian(4.0, 1e-6)
    assert tree.pop("known-cohort") == {"pld": epsilon.pld, "rdp": epsilon.rdp}
    assert tree.pop("released-models") == {"pld": epsilon.pld, "rdp": epsilon.rdp}
    assert tree.pop("neighbouring-relation").startswith("zero-out")
    # 4 times the optimum for (32, 4) of jax_privacy, against independent noise: 4 * 2 * sqrt(129 / 2).
    assert tree.pop("rms-error") == pytest.approx(4 * 5.13056, rel=1e-5)
    assert tree.pop("rms-error-over-independent") == pytest.approx(5.13056 / (2 * 64.5**0.5), rel=1e-5)
    assert tree.pop("max-error") > 4 * 6.1717
    assert tree.pop("sensitivity") == pytest.approx(3.1355, abs=1e-3)
    assert tree == {
        "server": None,
        "unit": "one client, with all its participations",
        "mechanism": "banded",
        "noise-multiplier": 4.0,
        "vectors-in-memory": 31,
        "rounds": 128,
        "min-separation": 32,
        "participations": 4,
        "bands": 32,
        "buffers": None,
        "client-rate": None,
        "group-rate": None,
        "delta": 1e-6,
    }


@pytest.mark.parametrize("mechanism", ["banded --bands 8", "blt --buffers 2", "sqrt-toeplitz"])
def test_epsilon_in_noise_out(mechanism: str) -> None:
    tree = json.loads(budget(f"--epsilon 4 {PLAIN} --participations 3 --mechanism {mechanism} --json"))
    assert (tree["epsilon"], tree["participations"]) == (4.0, 3)
    assert 3.99 < tree["known-cohort"]["pld"] <= 4
    assert tree["rms-error-over-independent"] < 0.6


def test_amplified_by_groups() -> None:
    tree = json.loads(budget(f"--noise-multiplier 1 {SAMPLED} --json"))
    groups = Groups(count=5, rounds=60, client_rate=0.02)
    assert tree["released-models"]["pld"] == epsilon_amplified(1.0, groups, 1e-5).pld
    assert tree["known-cohort"]["pld"] == pytest.approx(epsilon_gaussian(12**-0.5, 1e-5).pld)
    assert (tree["group-rate"], tree["min-separation"], tree["bands"]) == (0.1, 5, 5)
    assert 0.5 < tree["rms-error-over-independent"] < 0.9
    found = json.loads(budget(f"--epsilon {tree['released-models']['pld']} {SAMPLED} --json"))
    assert found["noise-multiplier"] == pytest.approx(1.0, abs=2e-3)


def test_tables_compare_mechanisms_and_say_what_they_stand_on() -> None:
    text = budget(f"--epsilon 2 {PLAIN}")
    for words in (
        "DP-FTRL with banded noise (32 bands), 128 rounds, at most 4 participations of a client, 32 rounds or more",
        "Protects one client, with all its participations; neighbours: zero-out",
        "The smallest noise for epsilon 2 against known cohort: ",
        "Server: sees the sums without noise; epsilon is infinite.",
    ):
        assert words in text
    lines = [line.split() for line in text.splitlines()]
    table = {line[0]: line[1:] for line in lines if len(line) == 7}
    assert list(table) == ["independent", "sqrt-toeplitz", "banded-sqrt", "banded", "blt"]
    assert (table["independent"][4], table["banded"][5], table["blt"][5]) == ("1", "31", "3")
    assert float(table["banded"][4]) == pytest.approx(5.13056 / (2 * 64.5**0.5), abs=1e-4)


@pytest.mark.slow
def test_tables_of_groups_compare_bands() -> None:
    text = budget(f"--noise-multiplier 1 {SAMPLED}")
    assert "5 groups in turn, client rate 0.02, hence 0.1 in a group" in text
    assert "1 band: independent noise and no groups, as in DP-FedAvg." in text
    lines = [line.split() for line in text.splitlines()]
    table = {line[0]: line[1:] for line in lines if len(line) == 7 and line[0].isdigit()}
    assert list(table) == ["1", "2", "5", "10"]
    assert float(table["5"][4]) < float(table["2"][4]) < float(table["1"][4]) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (PLAIN, "--noise-multiplier, --epsilon: exactly one of them is needed; given: none"),
        (f"--noise-multiplier 1 --epsilon 1 {PLAIN}", "exactly one of them is needed; given: both"),
        (f"--noise-multiplier 0 {PLAIN}", "--noise-multiplier 0.0: must be above 0"),
        (f"--noise-multiplier nan {PLAIN}", "noise multiplier = nan: must be 0 or more, and finite"),
        (f"--epsilon 0 {PLAIN}", "epsilon = 0.0: must be above 0"),
        (f"--noise-multiplier 1 {PLAIN} --rounds 0", "rounds = 0: must be 1 or more"),
        (f"--noise-multiplier 1 {PLAIN} --delta 1", "delta = 1.0: must be above 0 and below 1"),
        (f"--noise-multiplier 1 {PLAIN} --min-separation 0", "separation = 0: must be 1 or more"),
        (f"--noise-multiplier 1 {PLAIN} --participations 0", "participations = 0: must be 1 or more"),
        (f"--noise-multiplier 1 {PLAIN} --bands 33", "bands = 33: must be at most the separation, 32"),
        (f"--noise-multiplier 1 {PLAIN} --bands 0", "bands = 0: must be 1 or more"),
        (f"--noise-multiplier 1 {PLAIN} --mechanism blt --bands 4", "--bands 4: is for --mechanism banded"),
        (f"--noise-multiplier 1 {PLAIN} --buffers 4", "--buffers 4: is for --mechanism blt"),
        (f"--noise-multiplier 1 {PLAIN} --mechanism blt --buffers 9", "buffers = 9: must be 1 to 8"),
        (f"--noise-multiplier 1 {PLAIN} --client-rate 0.1", "can't come from one of 32 groups"),
        (
            f"--noise-multiplier 1 {PLAIN} --client-rate 0.01 --participations 2",
            "--participations 2: has no theorem with --client-rate",
        ),
        (
            f"--noise-multiplier 1 {PLAIN} --client-rate 0.01 --mechanism blt",
            "blt: amplification by 32 groups has a theorem for strategies of at most 32 bands alone",
        ),
    ],
)
def test_what_is_refused(line: str, says: str) -> None:
    text = budget(line, code=2)
    assert says in text
    assert len(text.splitlines()) == 1


def test_help_says_what_epsilon_rests_on() -> None:
    result = RUNNER.invoke(app, ["budget", "dp-ftrl", "--help"])
    assert result.exit_code == 0
    assert "Epsilon depends on how often" in result.stdout
