"""One-dimensional audit of the streamed noise: it confirms the claim, and detects mistakes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.privacy.audit import Release, measure
from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.accounting import Groups, epsilon_amplified, epsilon_gaussian
from fedsim.privacy.dp_ftrl.factorization import Factorization, banded, buffered, square_root_toeplitz
from tests.privacy.dp_ftrl.oracles import dense

TRIALS, DELTA = 100_000, 1e-5
PATTERN = Participation(rounds=9, separation=3)
CLAIMED = epsilon_gaussian(1.0, DELTA).pld


def release(mechanism: Factorization, deviation: float, rounds: tuple[int, ...]) -> Release:
    """Return the log-likelihood ratio of all rows: a client's clipped updates, each 1, in these rounds (from 0)."""
    matrix = dense(mechanism.column)
    updates = np.zeros(mechanism.participation.rounds)
    updates[list(rounds)] = 1
    direction = matrix.T @ (matrix @ updates)

    def run(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        noise = mechanism.noise(trials)  # each number of the vector is a run of its own
        score = np.zeros(trials)
        for update, weight in zip(updates, direction, strict=True):
            row = present * update + deviation * noise.next(generator.standard_normal(trials))
            score += weight * row
        return score

    return run


@pytest.mark.parametrize(
    "mechanism",
    [banded(PATTERN, 3), buffered(PATTERN, 2), square_root_toeplitz(PATTERN)],
    ids=lambda mechanism: mechanism.name,
)
def test_the_whole_training_loses_no_more_than_is_claimed(mechanism: Factorization) -> None:
    generator = np.random.default_rng([7, *mechanism.name.encode()])
    honest = measure(release(mechanism, mechanism.sensitivity, (0, 3, 6)), TRIALS, DELTA, generator)
    assert 0.5 * CLAIMED < honest.epsilon < CLAIMED
    # Noise for one participation, and three.
    few = measure(release(mechanism, mechanism.once, (0, 3, 6)), TRIALS, DELTA, generator)
    assert few.epsilon > CLAIMED
    # Noise for three participations that are apart, and a client that comes in nine rounds.
    close = measure(release(mechanism, mechanism.sensitivity, tuple(range(9))), TRIALS, DELTA, generator)
    assert close.epsilon > CLAIMED


def sampled(mechanism: Factorization, deviation: float, rate: float) -> Release:
    """Return the log-likelihood ratio of a client that is drawn by a coin in each turn of its group, the first."""
    matrix, once = dense(mechanism.column), mechanism.once
    turns = range(0, mechanism.participation.rounds, mechanism.participation.separation)

    def run(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        noise = mechanism.noise(trials)
        rows = []
        for round_ in range(mechanism.participation.rounds):
            coins = (generator.random(trials) < rate) & (round_ in turns)
            rows.append(present * coins + deviation * noise.next(generator.standard_normal(trials)))
        weighed = matrix @ np.stack(rows)
        ratio = np.zeros(trials)
        for turn in turns:  # whose columns don't overlap
            along = matrix[:, turn] @ weighed / once
            ratio += np.log1p(rate * np.expm1((2 * along * once - once**2) / (2 * deviation**2)))
        return ratio

    return run


def test_groups_are_drawn_with_a_rate_of_their_own() -> None:
    mechanism = banded(Participation(rounds=12, separation=4), 4)
    groups = Groups(count=4, rounds=12, client_rate=0.1)
    claimed = epsilon_amplified(1.0, groups, DELTA).pld
    found = measure(sampled(mechanism, mechanism.once, groups.rate), TRIALS, DELTA, np.random.default_rng(8))
    assert 0.4 * claimed < found.epsilon < claimed
    # The account by the client rate itself, of which the same cohorts are found to lose more.
    wrong = epsilon_amplified(1.0, Groups(count=1, rounds=groups.steps, client_rate=0.1), DELTA).pld
    assert found.epsilon > wrong
    # And noise that is too low by a third is found to lose more than the right account says.
    low = measure(
        sampled(mechanism, mechanism.once / 2, groups.rate), TRIALS, DELTA, np.random.default_rng(9)
    )
    assert low.epsilon > claimed
