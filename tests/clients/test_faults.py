"""Injected faults: their frequency, the same on all engines, and rounds with the remaining clients."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import stats

import fedsim
from fedsim import Experiment
from fedsim.clients.mods.faults import Fault, fault_of
from fedsim.data import prepare
from fedsim.models import initial_model
from fedsim.sections import FaultsSection
from fedsim.streams import numpy_stream
from tests.conftest import experiment
from tests.support.runs import bits
from tests.support.tasks import task_of, tensors

ALL = FaultsSection(dropout=0.2, crash=0.1, nan=0.05, straggler=0.4, delay=2.0, deadline=3.0)
REASONS = {
    Fault.DROPOUT: "dropped out (faults.dropout)",
    Fault.CRASH: "RuntimeError: crashed (faults.crash)",
    Fault.NAN: "sent NaN or infinity in ",
    Fault.LATE: "came after the deadline (faults.deadline)",
}


def drawn(faults: FaultsSection, seed: int = 0) -> list[Fault]:
    """Return the faults of 100 clients in 200 rounds."""
    return [fault_of(faults, seed, round_, client) for round_ in range(1, 201) for client in range(100)]


def p_value(counts: Counter[Fault], probabilities: dict[Fault, float]) -> float:
    """Return how likely counts this far from the expected ones are (chi-squared)."""
    total = counts.total()
    observed = [counts[fault] for fault in probabilities]
    return float(stats.chisquare(observed, [total * p for p in probabilities.values()]).pvalue)


def probabilities(late: float, dropout: float = 0.2) -> dict[Fault, float]:
    chances = {Fault.DROPOUT: dropout, Fault.CRASH: 0.1, Fault.NAN: 0.05, Fault.LATE: late}
    return chances | {Fault.NONE: 1 - sum(chances.values())}


def test_faults_are_as_frequent_as_the_experiment_says() -> None:
    counts = Counter(drawn(ALL))
    late = 0.4 * np.exp(-3.0 / 2.0)  # slow, and an exponential delay of mean 2 is above 3
    assert p_value(counts, probabilities(late)) > 1e-3
    # The same test refuses what is a little wrong: a dropout of 0.22, or a delay of mean 2.4.
    assert p_value(counts, probabilities(late, dropout=0.22)) < 1e-6
    assert p_value(counts, probabilities(0.4 * np.exp(-3.0 / 2.4))) < 1e-6


def test_a_clients_fault_says_nothing_of_another_rounds_or_clients() -> None:
    half = FaultsSection(dropout=0.5)
    faults = np.array([fault is Fault.DROPOUT for fault in drawn(half)], dtype=float).reshape(200, 100)
    for one, other in (
        (faults[:-1], faults[1:]),
        (faults[:, :-1], faults[:, 1:]),
        (faults[:100], faults[100:]),
    ):
        assert stats.pearsonr(one.ravel(), other.ravel()).pvalue > 1e-3
    noisy = np.where(np.random.default_rng(0).random(faults.shape) < 0.1, faults, 1 - faults)
    assert stats.pearsonr(faults.ravel(), noisy.ravel()).pvalue < 1e-6  # the test sees dependence
    assert drawn(half, seed=1) != drawn(half) == drawn(half)


def test_a_higher_probability_keeps_the_clients_that_had_the_fault() -> None:
    less, more = (FaultsSection(dropout=0.2, crash=crash) for crash in (0.0, 0.3))
    first = [fault is Fault.DROPOUT for fault in drawn(less)]
    assert first == [fault is Fault.DROPOUT for fault in drawn(more)]


@pytest.mark.parametrize("fault", [Fault.DROPOUT, Fault.CRASH, Fault.NAN, Fault.LATE])
def test_a_fault_that_is_certain_happens_to_all_in_every_round(fault: Fault) -> None:
    overrides = {
        Fault.DROPOUT: ["faults.dropout=1.0"],
        Fault.CRASH: ["faults.crash=1.0"],
        Fault.NAN: ["faults.nan=1.0"],
        Fault.LATE: ["faults.straggler=1.0", "faults.delay=1e9", "faults.deadline=1e-9"],
    }[fault]
    for row in fedsim.run(experiment(*overrides), "run").rows:
        assert (row["clients"], row["failures"]) == (0, 4)
        assert all(REASONS[fault] in line for line in row["failure-reasons"])


SETTING = """
name = "faulty"
rounds = 4
[data]
clients = 12
partition = "dirichlet"
[model]
name = "linear"
[server]
cohort = 9
[faults]
dropout = 0.2
crash = 0.1
nan = 0.2
straggler = 0.4
delay = 2.0
deadline = 1.0
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])  # folded in the workers, and gathered
def test_every_engine_has_the_same_faults_and_the_same_bits(strategy: str) -> None:
    choice = f"server.strategy={strategy}"
    run = fedsim.run(Experiment.from_toml(SETTING, [choice, "runtime.engine=sequential"]), "sequential")
    reference = bits(run)
    reasons = " ".join(line for row in run.rows for line in row.get("failure-reasons", []))
    assert all(reason in reasons for reason in REASONS.values()), reasons
    for workers in (1, 2, 3):
        setting = Experiment.from_toml(SETTING, [choice, f"runtime.workers={workers}"])
        assert bits(fedsim.run(setting, f"local-{workers}")) == reference
    other = Experiment.from_toml(SETTING, [choice, "runtime.engine=sequential", "seed=1"])
    assert bits(fedsim.run(other, "other")) != reference


def test_the_rows_count_the_faults_that_were_drawn() -> None:
    setting = Experiment.from_toml(SETTING, ["runtime.engine=sequential"])
    for row in fedsim.run(setting).rows:
        stream = numpy_stream(0, "cohort", round_=row["round"])
        cohort = sorted(stream.choice(12, size=9, replace=False).tolist())
        faults = {client: fault_of(setting.faults, 0, row["round"], client) for client in cohort}
        failed = {client: fault for client, fault in faults.items() if fault is not Fault.NONE}
        assert (row["clients"], row["failures"]) == (9 - len(failed), len(failed))
        for line, (client, fault) in zip(row.get("failure-reasons", []), failed.items(), strict=True):
            assert line.startswith(f"client {client}: {REASONS[fault]}")


def test_a_round_continues_with_the_remaining_clients() -> None:
    # One step a client on all of its examples: the weighted mean over the clients that are left is the step
    # of gradient descent on their examples together, and nobody else's.
    setting = experiment(
        "rounds=1",
        "data.partition=dirichlet",
        "server.cohort=12",
        "client.batch-size=100000",
        "client.learning-rate=0.5",
        "faults.dropout=0.3",
        "faults.nan=0.2",
    )
    left = [client for client in range(12) if fault_of(setting.faults, 0, 1, client) is Fault.NONE]
    assert 3 <= len(left) <= 9
    data = prepare(setting)
    federated = load_file(fedsim.run(setting).path / "model.safetensors")

    def step(clients: list[int]) -> dict[str, Any]:
        model = initial_model(setting, task_of(setting))
        parts = [tensors(data, data.client(client).train) for client in clients]
        inputs, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        task_of(setting).loss(model(inputs), labels).backward()
        return {name: (p - 0.5 * p.grad).detach().numpy() for name, p in model.named_parameters()}

    for name, expected in step(left).items():
        np.testing.assert_allclose(federated[name], expected, rtol=1e-4, atol=1e-6)
    everyone = step(list(range(12)))
    assert any(np.abs(federated[name] - everyone[name]).max() > 1e-3 for name in everyone)


def test_without_faults_nothing_changes() -> None:
    plain = bits(fedsim.run(experiment(), "plain"))
    assert (
        bits(fedsim.run(experiment("faults.dropout=0.0", "faults.delay=1.0", "faults.deadline=1.0"), "none"))
        == plain
    )
    # A straggler before its deadline is in time, and takes no longer.
    slow = experiment("faults.straggler=1.0", "faults.delay=1e-9", "faults.deadline=1e9")
    assert bits(fedsim.run(slow, "slow")) == plain
