"""Accuracies on real data that the README claims. Takes minutes, so not in the default suite."""

import pytest

import fedsim
from fedsim import Experiment
from fedsim.data import prepare
from fedsim.experiments.benchmarks.ngram import accuracies
from tests.conftest import CONFIGS

pytestmark = pytest.mark.slow


def test_the_quickstart_reaches_95_percent_within_30_rounds() -> None:
    run = fedsim.run(Experiment.load(CONFIGS / "quickstart.toml"))
    assert len(run.rows) <= 30
    assert run.accuracy is not None
    assert run.accuracy >= 0.95


def test_scaffold_beats_fedavg_on_very_uneven_labels() -> None:
    config = CONFIGS / "digits-scaffold.toml"
    accuracies = [
        fedsim.run(Experiment.load(config, [f"algorithm.name={name}"]), name).accuracy or 0.0
        for name in ("scaffold", "fedavg")
    ]
    assert accuracies[0] >= 0.95
    assert accuracies[0] > accuracies[1] + 0.02


def test_an_lstm_beats_a_trigram_on_the_standard_library() -> None:
    config = CONFIGS / "stdlib-lstm.toml"
    goal = accuracies(prepare(Experiment.load(config)))["3-gram"] + 0.03
    run = fedsim.run(Experiment.load(config, ["rounds=30", f"server.target-accuracy={goal}"]))
    assert run.accuracy is not None
    assert run.accuracy >= goal
