"""The clients' learning rates against closed forms and PyTorch's schedulers."""

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)

from fedsim import Experiment, Refused
from fedsim.catalogue import SCHEDULES
from fedsim.schedules.rate import check_schedule, learning_rate
from fedsim.sections import ClientSection

ROUNDS = 12


def rates(tree: dict[str, Any], rounds: int = ROUNDS) -> list[float]:
    client = ClientSection.model_validate({"learning-rate": 0.4, **tree})
    return [learning_rate(client, rounds, round_) for round_ in range(1, rounds + 1)]


def pytorchs(make: Any, rounds: int = ROUNDS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler: LRScheduler = make(optimizer)
    found = []
    for _ in range(rounds):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


EXPONENTIAL: dict[str, Any] = {"learning-rate-decay": 0.9}
STEP: dict[str, Any] = {"schedule": "step", "schedule-options": {"every": 5, "gamma": 0.3}}
COSINE: dict[str, Any] = {"schedule": "cosine", "schedule-options": {"floor": 0.25}}
CASES = [
    ({}, lambda o, n: StepLR(o, 1000)),
    ({"schedule": "constant"}, lambda o, n: StepLR(o, 1000)),
    (EXPONENTIAL, lambda o, n: ExponentialLR(o, 0.9)),
    (EXPONENTIAL | {"schedule": "exponential"}, lambda o, n: ExponentialLR(o, 0.9)),
    (STEP, lambda o, n: StepLR(o, 5, 0.3)),
    (COSINE, lambda o, n: CosineAnnealingLR(o, n, eta_min=0.1)),
    ({"schedule": "cosine"}, lambda o, n: CosineAnnealingLR(o, n)),
]


@pytest.mark.parametrize(("tree", "make"), CASES)
def test_rates_are_those_of_pytorchs_schedulers(tree: dict[str, Any], make: Any) -> None:
    assert rates(tree) == pytest.approx(pytorchs(lambda o: make(o, ROUNDS)), rel=1e-12)


@pytest.mark.parametrize(("tree", "make"), CASES)
def test_the_schedule_begins_after_the_warm_up(tree: dict[str, Any], make: Any) -> None:
    def both(optimizer: Any) -> LRScheduler:
        warm = LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
        return SequentialLR(optimizer, [warm, make(optimizer, ROUNDS - 4)], milestones=[4])

    warmed = rates(tree | {"warmup-rounds": 4})
    assert warmed == pytest.approx(pytorchs(both), rel=1e-12)
    assert warmed[:5] == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4])
    assert warmed[4:] == rates(tree, ROUNDS - 4)


def test_the_closed_forms() -> None:
    """The rate that `learning-rate-decay` gave before there were schedules, to the bit."""
    assert rates(EXPONENTIAL) == [0.4 * 0.9 ** (r - 1) for r in range(1, ROUNDS + 1)]
    assert rates(STEP) == [0.4] * 5 + [0.4 * 0.3] * 5 + [0.4 * 0.3**2] * 2
    fallen = rates(COSINE)
    assert fallen[0] == 0.4
    assert fallen[ROUNDS // 2] == pytest.approx((0.4 + 0.1) / 2)
    assert fallen == sorted(fallen, reverse=True)
    assert fallen[-1] == pytest.approx(0.1 + 0.3 * (1 + math.cos(math.pi * 11 / 12)) / 2)


def test_every_schedule_can_be_loaded() -> None:
    for entry in SCHEDULES.values():
        assert callable(entry.load())


def endless(round_: int, rounds: int) -> float:
    return 1 / (round_ - 3) if round_ == 3 else 1.0


def negative(round_: int, rounds: int, at: int) -> float:
    return -1.0 if round_ == at else 0.0


def word(round_: int, rounds: int) -> str:
    return "fast"


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("endless", {}, "division by zero"),
        ("negative", {"at": 5}, r"returned -1\.0 for round 5; a finite number is needed, at least 0"),
        ("negative", {}, "missing 1 required positional argument: 'at'"),
        ("word", {}, "is a function; a numbers.Real is needed: a subclass"),
        ("nowhere", {}, "can't be loaded"),
    ],
)
def test_an_own_schedule_without_rates_is_refused_before_the_run(
    name: str, options: dict[str, Any], line: str
) -> None:
    client = ClientSection(schedule=f"{__name__}:{name}", schedule_options=options)
    with pytest.raises(Refused, match=line):
        check_schedule(client, 5)


def test_a_run_of_rounds_that_warm_up_alone_is_refused() -> None:
    assert Experiment.from_toml("rounds = 5\n[client]\nwarmup-rounds = 4").client.warmup_rounds == 4
    with pytest.raises(Refused, match=r"client\.warmup-rounds = 5: must be below rounds = 5"):
        Experiment.from_toml("rounds = 5\n[client]\nwarmup-rounds = 5")
