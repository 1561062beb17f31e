"""Flower's SecAgg+ as the benchmark's peer: that it is Flower's, and computes what it should."""

import numpy as np
import pytest

from fedsim.experiments.benchmarks.flower_secagg import (
    COLLECT,
    SETUP,
    SHARE_KEYS,
    UNMASK,
    Cohort,
    Update,
    mask_seconds,
    vectors,
)

NODES = range(101, 107)
MODEL = np.zeros(100)


def clients() -> dict[int, Update]:
    made = vectors(NODES, 100, np.random.Generator(np.random.Philox(0)))
    return {node: Update(update.vector, 100 * (node - 100)) for node, update in made.items()}


def mean(updates: list[Update]) -> np.ndarray:
    return np.average([u.vector for u in updates], axis=0, weights=[u.examples for u in updates])


# A client quantises weight/1000 times its numbers to steps of 16 / 2^22, rounded up or down; the mean divides their
# sum by the sum of the weights: 6 steps at most over 2.1 at least 0.3.
STEP = 16 / 2**22


@pytest.mark.parametrize("lost", [None, COLLECT, UNMASK])
def test_the_mean_is_that_of_those_that_uploaded(lost: str | None) -> None:
    updates = clients()
    outcome = Cohort(updates).round(MODEL, lost={103: lost} if lost else {})
    there = [update for node, update in updates.items() if (node, lost) != (103, COLLECT)]
    assert outcome.mean is not None
    bound = 2 * len(there) * STEP / sum(update.examples / 1000 for update in there)
    assert np.abs(outcome.mean - mean(there)).max() < bound
    assert outcome.client_errors == []


@pytest.mark.parametrize("lost", [SETUP, SHARE_KEYS])
def test_flower_halts_where_a_client_is_lost_early(lost: str) -> None:
    outcome = Cohort(clients()).round(MODEL, lost={103: lost})
    assert outcome.halted
    assert {text for _, _, text in outcome.client_errors} == {"KeyError: 103"}


def test_all_messages_are_counted_and_timed() -> None:
    outcome = Cohort(clients()).round(MODEL)
    stages = {SETUP, SHARE_KEYS, COLLECT, UNMASK}
    assert set(outcome.bytes_up) == set(outcome.bytes_down) == set(outcome.client_seconds) == stages
    assert outcome.bytes_up[COLLECT] > len(NODES) * 8 * 100  # int64
    assert 0 < outcome.server_seconds.wall < outcome.seconds.wall


def test_what_a_client_learns_is_what_the_server_sent() -> None:
    seen = []

    def train(model: np.ndarray) -> Update:
        seen.append(model)
        return Update(model + 1)

    outcome = Cohort(dict.fromkeys(NODES, train), max_weight=1.0).round(np.full(3, 0.5))
    assert outcome.mean == pytest.approx([1.5] * 3, abs=1e-4)
    assert all(np.array_equal(model, [0.5] * 3) for model in seen)
    assert len(seen) == len(NODES)


def test_a_mask_takes_time() -> None:
    assert mask_seconds(2, 1000).wall > 0
