"""The audit of low bits: its committed result, a sample of it, a leak that it finds, and resuming."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from fedsim.experiments.audits.__main__ import NOISE_MULTIPLIERS, OF_VECTORS, TRIALS, audit, main
from fedsim.experiments.audits.subjects import SUBJECTS
from fedsim.privacy.arithmetic import Arithmetic

COMMITTED = Path(__file__).parents[2] / "experiments" / "audits" / "low_bits.json"


def test_the_committed_audit_is_whole_and_finds_nothing_above_a_claim() -> None:
    rows = {
        (row["subject"], row["noise-multiplier"]): row for row in json.loads(COMMITTED.read_text())["rows"]
    }
    assert rows.keys() == {(name, z) for name in SUBJECTS for z in NOISE_MULTIPLIERS}
    for (name, noise_multiplier), row in rows.items():
        assert (row["arithmetic"], row["trials"]) == ("grid", TRIALS)
        assert row["claimed"] == pytest.approx(SUBJECTS[name].claimed(noise_multiplier))
        assert max(row["measured"].values()) <= row["claimed"]
        assert (OF_VECTORS.keys() <= row["measured"].keys()) == SUBJECTS[name].vectors


def test_noise_that_is_added_as_floats_is_found_out() -> None:
    row = audit("dp-fedavg", 4.0, 3000, 20, 0, Arithmetic.FLOAT32)
    assert row["arithmetic"] == "float32"
    assert row["measured"]["lowest bit"] > 1.5 * row["claimed"]


def test_what_is_in_the_file_is_not_done_again(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    arguments = ["dp-fedavg metric", "--trials", "200", "--json", str(file)]
    console = Console(width=120, record=True, quiet=True)
    main(arguments, console)
    first = json.loads(file.read_text())["rows"]
    assert [row["noise-multiplier"] for row in first] == list(NOISE_MULTIPLIERS)
    kept = first[1:]  # as if it had been killed in the first row
    file.write_text(json.dumps({"rows": kept}))
    main(arguments, console)
    again = json.loads(file.read_text())["rows"]
    assert again[:3] == kept
    assert {**again[3], "seconds": 0} == {**first[0], "seconds": 0}  # the same seed
    file.write_text("no JSON")
    with pytest.raises(SystemExit, match="2"):
        main(arguments, console)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUBJECTS if "compiled" not in name])
def test_a_sample_finds_nothing_above_a_claim(name: str) -> None:
    for noise_multiplier in NOISE_MULTIPLIERS:
        row = audit(name, noise_multiplier, 1000, 20, 1)
        assert max(row["measured"].values()) <= row["claimed"]
