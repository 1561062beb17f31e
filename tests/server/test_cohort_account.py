"""The account of a trusted server's rounds: what counts where a round has no sum, and where the plan ends."""

import math
from dataclasses import replace

import pytest

from fedsim import Experiment, RunFailed
from fedsim.privacy.accounting import pld
from fedsim.privacy.cohorts import Cohorts
from fedsim.privacy.dp_fedavg.accounting import CohortSum, released_models
from fedsim.privacy.events import CohortEvent, Noise, Part, Relation, Sampling, Unit
from fedsim.server.account import NOISE
from fedsim.server.cohort_account import CohortAccount
from fedsim.server.matrix_account import MatrixAccount
from tests.privacy.test_ledger import ROW

CLIENTS, COHORT, ROUNDS, DELTA, Z = 50, 5, 1000, 1e-3, 6.0
TEXT = f"""
rounds = {ROUNDS}
[data]
clients = {CLIENTS}
[server]
cohort = {COHORT}
[privacy.dp-fedavg]
noise-multiplier = {Z}
delta = {DELTA}
clip = 1.0
[privacy.secagg]
minimum = 2
dropout = 0.2
"""


def account(*overrides: str, clients: int = CLIENTS) -> CohortAccount:
    experiment = Experiment.from_toml(TEXT, overrides)
    assert experiment.privacy.dp_fedavg is not None
    return CohortAccount(experiment, experiment.privacy.dp_fedavg, clients, NOISE)


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


def test_rounds_without_a_sum_count_for_those_with_one_had_the_always_available_in_them() -> None:
    # Two of 50 clients are always there, and no other ever is. A sum, of two at least, comes of the rounds whose cohort
    # of 5 has both: 5 * 4 / (50 * 49) of them, here 8 of 1000. All of those have the client, and so their epsilon
    # is that of 8 Gaussians, in closed form: the other's update is zero.
    sums = round(ROUNDS * COHORT * (COHORT - 1) / (CLIENTS * (CLIENTS - 1)))
    assert sums == 8
    true = pld.epsilon_of_gaussians(Z, sums, DELTA)
    release = CohortSum(noise_multiplier=Z, rate=COHORT / CLIENTS, sampling=Sampling.FIXED, clients=CLIENTS)
    old = released_models(release, sums, DELTA).epsilon  # the control: of as many rounds as there were sums
    assert old is not None
    assert old.best < 0.5 * true
    made = account()
    for round_ in range(1, ROUNDS + 1):
        made.check_room(round_)
        if round_ % (ROUNDS // sums) == 0:
            made.note([event(round_, made.cohorts)])
    assert len(made.ledger) == sums
    said = made.report(ROUNDS)["released-models"]
    assert said["spent"] == said["epsilon"] > true
    row = made.columns(ROUNDS)
    assert (row["dp-steps"], row["epsilon-released-models"]) == (
        ROUNDS,
        pytest.approx(said["epsilon"], rel=0.1),
    )


def test_a_round_counts_from_when_it_was_begun() -> None:
    made = account()
    for round_ in (1, 2, 3):
        made.check_room(round_)
    assert made.columns(2)["dp-steps"] == 3  # the third has failed after its clients had been asked
    again = account()
    again.note([event(7, again.cohorts)])
    assert again.columns(5)["dp-steps"] == 7  # as a ledger tells that is all there is


def test_what_would_be_one_round_more_than_planned_is_refused_whatever_the_ledger_has_twice() -> None:
    made = account("rounds=3")
    made.note([event(1, made.cohorts), event(1, made.cohorts)])
    made.check_room(2)
    made.note([event(2, made.cohorts)])
    for round_ in (2, 3, 4):
        with pytest.raises(
            RunFailed, match=r"the ledger has 3 rounds, of 3 that are planned for the whole run"
        ):
            made.check_room(round_)
    assert made.report(2)["released-models"]["spent"] == made.report(2)["released-models"]["epsilon"]
    made.note([event(3, made.cohorts)])  # the control: unchecked, it spends more than it said
    spent, epsilon = (made.report(3)["known-cohort"][key] for key in ("spent", "epsilon"))
    assert spent > epsilon
    other = account("rounds=3", "privacy.dp-fedavg.noise-multiplier=7.0")
    other.note([event(1, other.cohorts)])
    with pytest.raises(RunFailed, match=r"round 2: the ledger's noise multiplier is 6.0, this run's 7.0"):
        other.check_room(2)


def test_a_row_of_correlated_noise_comes_once_and_only_if_it_was_planned() -> None:
    text = "rounds = 8\n[data]\nclients = 1000\n[server]\ncohort = 20\nsampling = 'b-min-sep'\n"
    experiment = Experiment.from_toml(
        text + "[privacy.dp-ftrl]\nnoise-multiplier = 2.0\ndelta = 1e-4\nclip = 0.5\nmin-separation = 4"
    )
    section = experiment.privacy.dp_ftrl
    assert section is not None

    def made(*rounds: int) -> MatrixAccount:
        of = MatrixAccount(experiment, section, 1000, NOISE)
        multiplier = of.plan.deviation / of.plan.mechanism.sensitivity
        of.note([replace(ROW, round=round_, noise_multiplier=multiplier) for round_ in rounds])
        return of

    made(1, 2).check_room(3)
    made(1).check_room(8)
    for rounds, round_ in (((1, 2), 2), ((5,), 3), ((8,), 9)):
        with pytest.raises(
            RunFailed, match=rf"round {round_}: the ledger has row {rounds[-1]} of the noise, of 8"
        ):
            made(*rounds).check_room(round_)
    with pytest.raises(RunFailed, match="a row of the noise was released twice"):
        made(1, 1).check_room(2)


def test_where_the_number_of_clients_is_protected_no_account_says_it() -> None:
    overrides = (
        "privacy={dp-fedavg={noise-multiplier=6.0, delta=1e-3, clip=1.0, relation='add-or-remove-one', rate=0.1}}",
        "server.sampling=poisson",
    )
    said = []
    for clients in (CLIENTS, CLIENTS - 1, 3):
        made = account(*overrides, clients=clients)
        made.note([event(1, made.cohorts)])
        said.append((made.report(1), made.columns(1), made.cohorts))
    assert said[0] == said[1] == said[2]
    assert said[0][0]["released-models"]["client-rate"] == 0.1
    assert said[0][0]["known-cohort"]["epsilon"] is None
    public = [account("server.sampling=fixed", clients=clients).report(0) for clients in (50, 49)]
    assert public[0] != public[1]  # the control
    assert math.isfinite(public[0]["released-models"]["epsilon"])
