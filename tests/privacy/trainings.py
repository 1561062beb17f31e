"""Inputs of plans and server halves without an experiment: a training, and draws."""

from typing import Any

import numpy as np

from fedsim.privacy.account import Account
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.events import Noise, Sampling
from fedsim.privacy.plan import Plan
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SystemRandomness
from fedsim.privacy.training import CohortRule, LocalWork, Training


def training(
    *,
    rounds: int,
    clients: int,
    cohort: int,
    sampling: Sampling = Sampling.FIXED,
    noise: Noise = Noise.SEEDED,
    **more: Any,
) -> Training:
    """Return the training of a model of three numbers by clients with 100 records each."""
    values: dict[str, Any] = {
        "records": np.full(clients, 100),
        "shapes": {"w": (3,)},
        "work": LocalWork(batch_size=10, epochs=1, steps=None),
        "arithmetic": Arithmetic.GRID,
    }
    return Training(
        rounds=rounds, rule=CohortRule(sampling=sampling, cohort=cohort), noise=noise, **values | more
    )


def account(plan: Plan, *, charges_ahead: bool = False) -> Account:
    """Return the account of a plan, without a file."""
    return Account(plan, Noise.SEEDED, charges_ahead=charges_ahead)


class Streams:
    """Draws (`fedsim.privacy.training.Draws`) from streams of the tests' own, or the operating system's."""

    def __init__(self, source: Noise = Noise.SEEDED) -> None:
        self.source = source

    def noise(self, purpose: str, round_: int) -> Randomness:
        """Return what draws the noise of a round."""
        if self.source is Noise.SYSTEM:
            return SystemRandomness()
        return NumpyRandomness(np.random.default_rng([round_, *purpose.encode()]))

    def coins(self, round_: int) -> np.random.Generator:
        """Return what draws a round's cohort."""
        return np.random.default_rng(round_)
