"""FedBuff: the order of trainings, the buffer's mean, and whole runs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

import fedsim
from fedsim import Refused
from fedsim.layout import Layout
from fedsim.server.schedules.buffered import Arrived, Buffered, BufferedMean
from fedsim.streams import numpy_stream
from tests.conftest import experiment
from tests.support.runs import bits, events_of
from tests.support.stopping import stopped

BASE = ("server.schedule=buffered", "server.cohort=3", "data.partition=dirichlet", "rounds=5")


def coins(round_: int) -> np.random.Generator:
    return numpy_stream(0, "cohort", round_=round_)


@given(
    clients=st.integers(1, 30),
    cohort=st.integers(1, 30),
    concurrency=st.integers(1, 30),
    rounds=st.integers(1, 8),
)
def test_concurrency_clients_train_at_any_time(
    clients: int, cohort: int, concurrency: int, rounds: int
) -> None:
    cohort, concurrency = min(cohort, clients), min(concurrency, clients)
    schedule = Buffered(cohort, clients, coins, uniform=True, concurrency=concurrency)
    begun: set[tuple[int, int]] = set()
    arrived: list[tuple[int, int]] = []
    time = 0.0
    for round_ in range(1, rounds + 1):
        cohort_now = schedule.draw(round_, clients)
        assert cohort_now == sorted(set(cohort_now)) and cohort_now  # noqa: PT018
        begun |= {(client, round_) for client in cohort_now}
        due, schedule._due = schedule._due, []
        assert len(due) == cohort
        arrived += due
        training = [(client, began) for _, client, began in schedule._training]
        assert len({client for client, _ in training}) == len(training) <= concurrency
        assert sorted(arrived + training) == sorted(begun)  # no training is lost or counted twice
        if clients >= concurrency + cohort:
            assert len(training) == concurrency
        assert schedule._now >= time
        time = schedule._now
        assert all(end >= time for end, _, _ in schedule._training)


def test_a_training_takes_a_half_normal_time_of_mean_one() -> None:
    schedule = Buffered(1, 4000, coins, uniform=True, concurrency=4000)
    schedule.draw(1, 4000)
    times = np.array([schedule._now, *(end for end, _, _ in schedule._training)])
    deviation = np.sqrt(np.pi / 2 - 1)  # of |N(0, 1)| sqrt(pi / 2)
    assert abs(times.mean() - 1) < 4 * deviation / np.sqrt(4000)
    assert abs(times.std() - deviation) < 0.05
    exponential = coins(1).exponential(size=4000)  # the control: the same mean, another law
    assert abs(exponential.std() - deviation) > 0.05


def test_the_mean_counts_old_updates_less() -> None:
    model = ArrayRecord({"w": Array(np.array([1.0, 2.0], np.float32))})
    arrived = [
        (Arrived({"w": np.array([1.0, 0.0])}, {"num-examples": 1.0, "train-loss": 4.0}), 1.0),
        (Arrived({"w": np.array([0.0, 6.0])}, {"num-examples": 3.0, "train-loss": 8.0}), 0.5),
    ]
    ask: Any = SimpleNamespace(layout=Layout.of(model), model=model, requests=[None])
    by_examples, uniform = (BufferedMean(arrived, which, ask) for which in (False, True))
    assert by_examples._mean["w"].tolist() == [1 / 4, 3 / 4 * 0.5 * 6]
    assert uniform._mean["w"].tolist() == [1 / 2, 1 / 2 * 0.5 * 6]
    assert (by_examples.reported["train-loss"], uniform.reported["train-loss"]) == (7.0, 6.0)


def test_with_all_clients_in_the_buffer_its_first_round_is_fedavg() -> None:
    # All begin on the first model, and all have arrived when the second is made: nothing is stale.
    setting = ("server.cohort=12", "rounds=1")
    buffered = fedsim.run(experiment("server.schedule=buffered", *setting), "buffered")
    (row,) = buffered.rows
    assert (row["clients"], row["staleness"]) == (12, 0.0)
    (plain,) = fedsim.run(experiment(*setting), "plain").rows
    assert row["loss"] == pytest.approx(plain["loss"], abs=1e-6)


FEDADAM = ("server.schedule-options.concurrency=2", "server.strategy=fedadam")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), FEDADAM])
def test_every_engine_gives_the_same_bits_and_so_does_a_resumed_run(more: tuple[str, ...]) -> None:
    whole = fedsim.run(experiment(*BASE, *more), "whole")
    assert [row["clients"] for row in whole.rows] == [3] * 5
    assert max(row["staleness"] for row in whole.rows) > 0
    assert bits(
        fedsim.run(experiment(*BASE, *more, "runtime.engine=local", "runtime.workers=2"), "local")
    ) == bits(whole)
    assert bits(fedsim.resume(stopped(experiment(*BASE, *more), "stopped"))) == bits(whole)


def test_clients_that_fail_are_missing_when_their_update_is_due() -> None:
    run = fedsim.run(experiment(*BASE[:-1], "faults.dropout=0.3", "rounds=8"), "run")
    assert all(row["clients"] + row["failures"] == 3 for row in run.rows)
    assert sum(row["failures"] for row in run.rows) > 0


def test_dp_sgd_composes_over_the_trainings_that_began() -> None:
    run = fedsim.run(
        experiment(*BASE, "privacy.dp-sgd.noise-multiplier=1.0", "privacy.dp-sgd.delta=1e-4"), "private"
    )
    events = events_of(run)
    assert len({(event.client, event.round) for event in events}) == len(events) > 5 * 3
    most = max(sum(e.client == client for e in events) for client in range(12))
    assert most > 1


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["server.strategy=krum", "server.cohort=3"], "server.strategy = 'krum': needs each client's model"),
        (
            ["privacy.secagg.minimum=2"],
            "server.schedule = 'buffered': privacy.secagg needs synchronous rounds",
        ),
        (
            ["algorithm.name=scaffold"],
            "server.schedule = 'buffered': algorithm.name = 'scaffold' needs synchronous rounds",
        ),
        (
            ["server.sampling=poisson"],
            "server.sampling = 'poisson': the schedule chooses the clients; allowed with one: fixed",
        ),
        (["server.schedule-options.concurrency=0"], "server.schedule-options.concurrency = 0: must be"),
        (["server.schedule-options.k=1"], "server.schedule-options.k = 1: is no key here with 'buffered'"),
        (
            [
                "privacy.dp-fedavg.noise-multiplier=1.0",
                "privacy.dp-fedavg.clip=1.0",
                "privacy.dp-fedavg.delta=1e-3",
            ],
            "server.schedule = 'buffered': no guarantee is known for it",
        ),
    ],
)
def test_invalid_combinations_are_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(Refused) as refused:
        experiment("server.schedule=buffered", *overrides)
    assert str(refused.value).startswith(line)


def test_concurrency_above_the_number_of_clients_is_refused() -> None:
    with pytest.raises(Refused, match=r"concurrency = 13: must be from 1 to the 12 clients"):
        fedsim.run(experiment(*BASE, "server.schedule-options.concurrency=13"), "run")
