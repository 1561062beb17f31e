"""The benchmark of a DP-SGD step: its contenders compute the same, and its report is right."""

import json
from pathlib import Path

import pytest
import torch

from fedsim.experiments.benchmarks import dp_sgd
from fedsim.experiments.benchmarks.dp_sgd import Row, Target, contenders, main


@pytest.mark.slow
def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp_sgd, "SECONDS", 0.0)
    threads = torch.get_num_threads()
    try:
        main(
            ["--models", "lstm", "--batches", "1,2", "--repeats", "1", "--json", str(tmp_path / "made.json")]
        )
    finally:
        torch.set_num_threads(threads)
    made = json.loads((tmp_path / "made.json").read_text())
    names = ["plain", "stock opacus", "opacus", "fast", "fast float32"]
    assert [(row["batch"], row["name"]) for row in made["rows"]] == [(b, n) for b in (1, 2) for n in names]
    assert all(row["ratio"] == 1.0 for row in made["rows"] if row["name"] == "plain")
    assert all(row["milliseconds"][0] > 0 for row in made["rows"])
    assert sum("fast at most 2.5 times plain on lstm" in line for line in made["targets"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn-half", "lstm"])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_all_begin_with_the_same_loss(model: str) -> None:
    losses = {name: step() for name, step in contenders(model, 3, 0, compiled=False).items()}
    assert all(loss == pytest.approx(losses["plain"], rel=1e-5) for loss in losses.values())


def test_a_verdict_by_hand() -> None:
    rows = [
        Row("lstm", 10, "plain", [2.0, 4.0, 3.0], [1.0, 1.0, 1.0], 0.0),
        Row("lstm", 10, "fast", [4.0, 6.0, 3.0], [2.0, 1.5, 1.0], 0.0),
        Row("cnn", 10, "fast", [9.0], [9.0], 0.0),
    ]
    assert Target("lstm", "fast", 2.5).verdict(rows) == (
        "target: fast at most 2.5 times plain on lstm; measured: 1.50 (batch 10)"
    )
    assert Target("lstm", "stock opacus", 6.0, of="fast").verdict(rows).endswith("measured: not measured")
