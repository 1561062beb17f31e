"""`fedsim budget secagg`: numbers for machines, tables for people, and what it refuses."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.topology import Adversary, Assumptions, topology

RUNNER = CliRunner(env={"COLUMNS": "140"})


def budget(line: str, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["budget", "secagg", *line.split()])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def cohorts(line: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(budget(f"{line} --json"))["cohorts"]
    return found


def test_json_has_the_topology_the_bytes_and_the_inputs() -> None:
    tree = json.loads(budget("--cohort 100 --parameters 1000000 --json"))
    (row,) = tree.pop("cohorts")
    assert tree == {
        "parameters": 1_000_000,
        "corrupt": 0.05,
        "dropout": 0.05,
        "adversary": "semi-honest",
        "input-bits": 16,
        "max-weight": 1,
    }
    shape = topology(100, Assumptions(0.05, 0.05))
    assert (row["graph"], row["degree"], row["threshold"]) == ("k-regular", 12, 6)
    assert (row["honest-minimum"], row["claim"]) == (shape.honest_minimum, shape.claim)
    assert row["modulus-bits"] == 23  # log2(100 * 65534 + 1), rounded up
    encoding = Encoding(1_000_000, cohort=100)
    stages = row["stages"]
    assert list(stages) == ["advertise", "share", "upload", "unmask"]
    assert stages["upload"]["up-bytes"] == -(-encoding.length * 23 // 8) + 64
    assert row["upload-bytes"] == sum(stage["up-bytes"] for stage in stages.values())
    assert row["extra-download-bytes"] == sum(stage["down-bytes"] for stage in stages.values())
    assert row["model-bytes"] == 4_000_000
    both = row["upload-bytes"] + row["extra-download-bytes"]
    assert row["expansion"] == pytest.approx(both / 2_000_000, rel=1e-5)
    assert row["client-seconds"] > 0
    assert row["server-core-seconds"] > 0


def test_assumptions_and_encoding_are_passed_on() -> None:
    line = "--parameters 50 --corrupt 0.2 --dropout 0.1 --adversary malicious-server --graph complete"
    (row,) = cohorts(f"--cohort 30 {line} --input-bits 8 --max-weight 500 --minimum 5")
    shape = topology(30, Assumptions(0.2, 0.1, Adversary.MALICIOUS_SERVER), graph="complete")
    assert (row["graph"], row["degree"], row["threshold"]) == ("complete", 29, shape.threshold)
    assert (row["corrupt-clients"], row["dropped-clients"]) == (6, 3)
    encoding = Encoding(50, cohort=30, input_bits=8, max_weight=500)
    assert row["modulus-bits"] == encoding.ring.bits
    assert row["stages"]["upload"]["up-bytes"] == encoding.ring.packed_size(encoding.length) + 64
    assert "confirm" in row["stages"]


def test_several_cohorts_up_to_a_million() -> None:
    rows = cohorts("--cohort 20,1000 --cohort 1_000_000 --parameters 1000000")
    assert [row["cohort"] for row in rows] == [20, 1000, 1_000_000]
    assert [row["graph"] for row in rows] == ["complete", "k-regular", "k-regular"]
    assert [row["modulus-bits"] for row in rows] == [21, 26, 36]
    for key in ("upload-bytes", "extra-download-bytes", "server-core-seconds", "expansion"):
        assert sorted(row[key] for row in rows) == [row[key] for row in rows], key
    assert rows[0]["expansion-bonawitz-2017"] == pytest.approx((40 * 256 + 96 * 256 + 21e6) / 16e6)


def test_tables_say_the_same() -> None:
    text = budget("--cohort 20,100 --parameters 1000000")
    first, second = (line.split() for line in text.splitlines() if line.split()[1:2] in (["19"], ["12"]))
    assert first[:8] == ["20", "19", "(all)", "14", "21", "2.63", "MB", "4.1"]
    assert second[:7] == ["100", "12", "6", "23", "2.88", "MB", "5.8"]
    assert (first[-1], second[-1]) == ("13", "90")
    assert "20 clients. If the server follows the protocol" in text
    assert "100 clients. If the server follows the protocol" in text
    assert "unmask" not in text
    single = budget("--cohort 100 --parameters 1000 --adversary malicious-server")
    assert all(stage in single for stage in ("advertise", "reveal", "share", "upload", "confirm", "unmask"))
    assert "learn one sum at most" in single


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--cohort ten --parameters 5", "--cohort 'ten': must be a whole number"),
        ("--cohort 10, --parameters 5", "--cohort '': must be a whole number"),
        ("--cohort 1000001 --parameters 5", "--cohort 1000001: must be at most 1,000,000"),
        ("--cohort 2 --parameters 5", "a cohort of 2: must be from 3"),
        ("--cohort 9 --parameters 5 --minimum 10", "a cohort of 9: must be from 10"),
        ("--cohort 10 --parameters 0", "--parameters 0: must be 1 or more"),
        ("--cohort 10 --parameters 5 --corrupt 1", "corrupt = 1.0: must be from 0 up to"),
        ("--cohort 10 --parameters 5 --dropout -0.1", "dropout = -0.1: must be from 0 up to"),
        ("--cohort 10 --parameters 5 --input-bits 1", "input_bits = 1: must be a whole number from 2 to 32"),
        ("--cohort 10 --parameters 5 --max-weight 0", "max_weight = 0: must be a whole number from 1"),
        (
            "--cohort 10 --parameters 5 --corrupt 0.3 --dropout 0.4 --adversary malicious-server",
            "the threshold must be 7 or more, and only 6 clients may be left",
        ),
    ],
)
def test_what_is_refused(line: str, says: str) -> None:
    text = budget(line, code=2)
    assert says in text
    assert len(text.splitlines()) == 1


def test_help_says_what_follows_from_what() -> None:
    result = RUNNER.invoke(app, ["budget", "secagg", "--help"])
    assert result.exit_code == 0
    assert "Neighbours and threshold follow from assumptions" in result.stdout
    assert "secagg" in RUNNER.invoke(app, ["budget", "--help"]).stdout
