"""Audit of the clients' DP-SGD: `PrivateSteps`, with its batches, clipping and noise, on one weight."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedsim.privacy.accounting import LocalSteps, known_cohort
from fedsim.privacy.audit import Release, measure
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.release import Batches
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.dp_sgd.steps import PrivateSteps
from fedsim.privacy.events import Noise
from fedsim.privacy.randomness import SeededRandomness

BATCHES = Batches.of(4, 2, steps=2)  # rate 1/2
CLAIMED = known_cohort(LocalSteps(noise_multiplier=1, rate=0.5, steps=2), 1, 1e-5).pld
TRIALS = 3000


def steps(noise_multiplier: float, *, clip: float = 1.0) -> Release:
    """Return the log-likelihood ratio of a client's noised sums, clip norm 1 and noise 1 being claimed.

    Three records have no gradient, the fourth one of 100 before clipping, or none in the neighbour (zero-out).
    """
    model = nn.Linear(1, 1, bias=False)
    gradient = PrivateGradient(model, lambda outputs, labels: outputs.squeeze(1), clip=clip)
    settings = DpSgdSettings(clip=clip, noise_multiplier=noise_multiplier, delta=1e-5)
    planned = settings.planned_event(BATCHES, noise_multiplier, Noise.SEEDED, round_=1, client=0)
    labels = torch.zeros(4)

    def release(generator: np.random.Generator, trials: int, present: bool) -> NDArray[np.float64]:
        randomness = SeededRandomness(
            generator, torch.Generator().manual_seed(int(generator.integers(2**62)))
        )
        inputs = torch.tensor([[0.0], [0.0], [0.0], [100.0 * present]])
        sums = np.empty((trials, BATCHES.steps))
        for trial in range(trials):
            client = PrivateSteps(model, gradient, BATCHES, planned, randomness, inputs, labels)
            for step, _ in enumerate(client):
                sums[trial, step] = model.weight.grad.item() * BATCHES.denominator  # type: ignore[union-attr]
        return np.log1p(BATCHES.rate * np.expm1(sums - 0.5)).sum(axis=1)

    return release


@pytest.mark.slow
def test_the_clients_step_loses_no_more_than_is_claimed() -> None:
    found = measure(steps(1.0), TRIALS, 1e-5, np.random.default_rng(0))
    assert 0.2 * CLAIMED < found.epsilon < CLAIMED


@pytest.mark.slow
def test_a_clip_that_comes_too_late_is_found_out() -> None:
    late = steps(0.25, clip=4.0)  # the noise that is claimed, on a sum that moves by 4
    assert measure(late, TRIALS, 1e-5, np.random.default_rng(1)).epsilon > CLAIMED
