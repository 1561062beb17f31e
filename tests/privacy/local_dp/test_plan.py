"""The plan of local DP: it refuses the ledger of another mechanism."""

from dataclasses import replace

import pytest

from fedsim.privacy.local_dp.plan import LocalDpPlan
from fedsim.privacy.local_dp.settings import LocalDpSettings
from tests.privacy.test_ledger import EVENT
from tests.privacy.trainings import account, training

SETTINGS = LocalDpSettings(noise_multiplier=0.8, delta=1e-3, clip=0.5)


def plan(settings: LocalDpSettings = SETTINGS) -> LocalDpPlan:
    return LocalDpPlan(settings, training(rounds=4, clients=6, cohort=3))


def test_a_ledger_of_another_mechanism_is_no_account_of_this_one() -> None:
    charged = account(plan(), charges_ahead=True)
    charged.charge(1, [0, 1])
    assert charged.row(1)["dp-steps"] == 1
    for other, why in (
        (
            SETTINGS.model_copy(update={"noise_multiplier": 0.9}),
            r"is gaussian, multiplier 0\.8; this run's gaussian",
        ),
        (
            SETTINGS.model_copy(update={"law": "laplace", "delta": None}),
            r"is gaussian, .*; this run's laplace",
        ),
    ):
        louder = account(plan(other))
        louder.note_reported(list(charged.ledger))
        with pytest.raises(ValueError, match=rf"the ledger's noise {why}"):
            louder.row(1)
    stranger = account(plan())
    stranger.note_reported([replace(EVENT, client=0)])
    with pytest.raises(ValueError, match="the ledger's updates are of another mechanism"):
        stranger.row(1)
