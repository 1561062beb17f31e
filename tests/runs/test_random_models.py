"""Random models: a sample ends as the committed outcomes say, and those say what every model must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedsim.experiments
from fedsim.experiments.random_models.__main__ import MECHANISMS, row_of

OUTCOMES = Path(fedsim.experiments.__path__[0]) / "random_models/outcomes.json"
SAMPLE = (0, 1, 3, 4, 8, 11, 36)


@pytest.fixture(scope="module")
def rows() -> dict[int, dict[str, Any]]:
    return {row["model"]: row for row in json.loads(OUTCOMES.read_text())}


def test_no_outcome_is_a_crash_or_differs_between_engines(rows: dict[int, dict[str, Any]]) -> None:
    assert set(rows) == set(range(200))
    endings = [row["ending"] for row in rows.values()]
    assert set(endings) <= {"bits", "refused"}
    assert endings.count("bits") >= 160
    assert {row["mechanism"] for row in rows.values()} == set(MECHANISMS)
    assert {(row["engine"], row["workers"]) for row in rows.values()} == {
        ("local", 1),
        ("local", 2),
        ("ray", 2),
    }
    assert all(row["clipped-sum"] < 1e-5 for row in rows.values() if not isinstance(row["clipped-sum"], str))


def test_the_sample_has_every_mechanism(rows: dict[int, dict[str, Any]]) -> None:
    assert {rows[number]["mechanism"] for number in SAMPLE} == set(MECHANISMS)


@pytest.mark.slow
@pytest.mark.parametrize("number", SAMPLE)
def test_a_model_ends_as_it_did(number: int, rows: dict[int, dict[str, Any]]) -> None:
    row, clipped = row_of(number), rows[number]["clipped-sum"]
    if not isinstance(clipped, str):  # rounding differs between machines
        assert row["clipped-sum"] < 1e-5
        row["clipped-sum"] = clipped
    assert row == rows[number]
