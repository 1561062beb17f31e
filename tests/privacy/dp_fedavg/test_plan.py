"""The plan of DP-FedAvg: rounds without a sum, and the end of the plan."""

import math
from dataclasses import replace

import pytest

from fedsim.privacy.account import Account
from fedsim.privacy.accounting.adversaries import epsilon_of_gaussians
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism, released_models
from fedsim.privacy.dp_fedavg.event import CohortEvent, Part
from fedsim.privacy.dp_fedavg.plan import DpFedAvgPlan
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.events import Noise, Relation, Sampling, Unit
from fedsim.privacy.training import SecureSum
from tests.privacy.test_ledger import ROW
from tests.privacy.trainings import account, training

CLIENTS, COHORT, ROUNDS, DELTA, Z = 50, 5, 1000, 1e-3, 6.0
SETTINGS = DpFedAvgSettings(noise_multiplier=Z, delta=DELTA, clip=1.0)
SECURE = SecureSum(clip=1.0, step=1e-6, metric_step=1e-6)


def plan(
    settings: DpFedAvgSettings = SETTINGS,
    *,
    rounds: int = ROUNDS,
    clients: int = CLIENTS,
    sampling: Sampling = Sampling.FIXED,
    secure: SecureSum | None = SECURE,
) -> DpFedAvgPlan:
    of = training(rounds=rounds, clients=clients, cohort=COHORT, sampling=sampling, secure=secure)
    return DpFedAvgPlan(settings, of)


def event(round_: int, cohorts: Cohorts) -> CohortEvent:
    return CohortEvent(
        mechanism="dp-fedavg",
        round=round_,
        unit=Unit.CLIENT,
        relation=Relation.ZERO_OUT if cohorts.declared is None else Relation.ADD_OR_REMOVE_ONE,
        parts=(Part(name="update", sensitivity=1.0, noise_multiplier=Z),),
        sampling=cohorts.sampling,
        clients=cohorts.clients,
        cohort=cohorts.cohort,
        max_cohort=None,
        separation=None,
        denominator=float(cohorts.cohort),
        noise=Noise.SEEDED,
        rate=cohorts.declared,
    )


def opened(of: DpFedAvgPlan, *rounds: int) -> Account:
    """Return an account whose ledger has the sums of some rounds."""
    made = account(of)
    for round_ in rounds:
        made.note_released(event(round_, of.cohorts))
    return made


def test_rounds_without_a_sum_count_for_those_with_one_had_the_always_available_in_them() -> None:
    # Two of 50 clients are always there, and no other ever is. A sum, of two at least, comes of the rounds whose cohort
    # of 5 has both: 5 * 4 / (50 * 49) of them, here 8 of 1000. All of those have the client, and so their epsilon
    # is that of 8 Gaussians, in closed form: the other's update is zero.
    sums = round(ROUNDS * COHORT * (COHORT - 1) / (CLIENTS * (CLIENTS - 1)))
    assert sums == 8
    true = epsilon_of_gaussians(Z, sums, DELTA).pld
    release = CohortMechanism(
        noise_multiplier=Z, rate=COHORT / CLIENTS, sampling=Sampling.FIXED, clients=CLIENTS
    )
    old = released_models(release, sums, DELTA).epsilon  # the control: of as many rounds as there were sums
    assert old is not None
    assert old.best < 0.5 * true
    of = plan()
    made = account(of)
    for round_ in range(1, ROUNDS + 1):
        made.check_room(round_)
        if round_ % (ROUNDS // sums) == 0:
            made.note_released(event(round_, of.cohorts))
    assert len(made.ledger) == sums
    said = made.report(ROUNDS)["released-models"]
    assert said["spent"] == said["epsilon"] > true
    row = made.row(ROUNDS)
    assert (row["dp-steps"], row["epsilon-released-models"]) == (
        ROUNDS,
        pytest.approx(said["epsilon"], rel=0.1),
    )


def test_a_round_counts_from_when_it_was_begun() -> None:
    made = account(plan())
    for round_ in (1, 2, 3):
        made.check_room(round_)
    assert made.row(2)["dp-steps"] == 3  # the third has failed after its clients had been asked
    again = opened(plan(), 7)
    assert again.row(5)["dp-steps"] == 7  # as a ledger tells that is all there is


@pytest.mark.parametrize(
    ("rounds", "counted"),
    [((1, 2), 2), ((1, 2, 5), 5), ((1, 2, 2), 3)],
    ids=["all have a sum", "rounds 3 and 4 had none", "one is there twice"],
)
def test_a_ledger_counts_rounds_without_a_sum_and_those_that_are_there_twice(
    rounds: tuple[int, ...], counted: int
) -> None:
    assert opened(plan(), *rounds).row(0)["dp-steps"] == counted


def test_a_round_beyond_the_plan_is_refused_despite_duplicates_in_the_ledger() -> None:
    of = plan(rounds=3)
    made = opened(of, 1, 1)
    made.check_room(2)
    made.note_released(event(2, of.cohorts))
    for round_ in (2, 3, 4):
        with pytest.raises(
            ValueError, match=r"the ledger has 3 rounds, of 3 that are planned for the whole run"
        ):
            made.check_room(round_)
    assert made.report(2)["released-models"]["spent"] == made.report(2)["released-models"]["epsilon"]
    made.note_released(event(3, of.cohorts))  # the control: unchecked, it spends more than it said
    spent, epsilon = (made.report(3)["known-cohort"][key] for key in ("spent", "epsilon"))
    assert spent > epsilon


def test_a_ledger_of_other_noise_cohorts_or_mechanism_is_no_account_of_this_plan() -> None:
    louder = plan(SETTINGS.model_copy(update={"noise_multiplier": 7.0}), rounds=3)
    first = event(1, louder.cohorts)
    for events, why in (
        ([first], r"the ledger's noise multiplier is 6\.0, this run's 7\.0"),
        ([first, replace(first, round=2, cohort=6)], "the noise or the cohorts' rule has changed"),
        ([ROW], "the ledger's rounds are of another mechanism"),
    ):
        made = account(louder)
        for one in events:
            made.note_released(one)
        for asked in (made.check_room, made.row, made.report):
            with pytest.raises(ValueError, match=why):
                asked(2)


def test_a_plan_does_not_reveal_a_protected_number_of_clients() -> None:
    protected = DpFedAvgSettings(
        noise_multiplier=Z, delta=DELTA, clip=1.0, relation="add-or-remove-one", rate=0.1
    )
    said = []
    for clients in (CLIENTS, CLIENTS - 1, 3):
        of = plan(protected, clients=clients, sampling=Sampling.POISSON, secure=None)
        made = opened(of, 1)
        said.append((made.report(1), made.row(1), of.cohorts))
    assert said[0] == said[1] == said[2]
    assert said[0][0]["released-models"]["client-rate"] == 0.1
    assert said[0][0]["known-cohort"]["epsilon"] is None
    public = [account(plan(clients=clients)).report(0) for clients in (50, 49)]
    assert public[0] != public[1]  # the control
    assert math.isfinite(public[0]["released-models"]["epsilon"])
