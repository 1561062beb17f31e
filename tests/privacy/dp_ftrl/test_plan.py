"""The plan of DP-FTRL: each row of noise is used once, and only if it was planned."""

from dataclasses import replace

import pytest

from fedsim.privacy.account import Account
from fedsim.privacy.dp_ftrl.plan import DpFtrlPlan
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.events import Event
from tests.privacy.test_ledger import COHORT, ROW
from tests.privacy.trainings import account, training

PLAN = DpFtrlPlan(
    DpFtrlSettings(noise_multiplier=2.0, delta=1e-4, clip=0.5, min_separation=4),
    training(rounds=8, clients=1000, cohort=20),
)


def made(*rounds: int) -> Account:
    """Return an account whose ledger has some rows of the noise."""
    multiplier = PLAN.noise.deviation / PLAN.noise.mechanism.sensitivity
    return noted(*(replace(ROW, round=round_, noise_multiplier=multiplier) for round_ in rounds))


def noted(*events: Event) -> Account:
    of = account(PLAN)
    for event in events:
        of.note_released(event)
    return of


def test_a_row_of_correlated_noise_comes_once_and_only_if_it_was_planned() -> None:
    made(1, 2).check_room(3)
    made(1).check_room(8)
    for rounds, round_ in (((1, 2), 2), ((5,), 3), ((8,), 9)):
        with pytest.raises(ValueError, match=rf"the ledger has row {rounds[-1]} of the noise, of 8"):
            made(*rounds).check_room(round_)
    with pytest.raises(ValueError, match="a row of the noise was released twice"):
        made(1, 1).check_room(2)


def test_the_last_row_counts_whatever_rounds_before_it_had_no_sum() -> None:
    assert [made(*rounds).row(8)["dp-steps"] for rounds in ((), (1, 2), (1, 5))] == [0, 2, 5]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([replace(ROW, noise_multiplier=3.0)], r"the ledger's noise multiplier is 3\.0, this run's 2"),
        ([ROW, replace(ROW, round=5, noise_multiplier=1.0)], "the noise or the cohorts' rule has changed"),
        ([COHORT], "the ledger's rounds are of another mechanism"),
    ],
)
def test_a_ledger_of_other_noise_or_mechanism_is_no_account_of_this_plan(
    events: list[Event], why: str
) -> None:
    of = noted(*events)
    for asked in (of.check_room, of.row, of.report):
        with pytest.raises(ValueError, match=why):
            asked(6)
