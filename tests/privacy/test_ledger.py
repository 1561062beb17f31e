import json
from dataclasses import replace

import pytest

from fedsim.mechanisms import event_of, loads
from fedsim.privacy.dp_fedavg.event import CohortEvent, CohortTerms, Part, joint_noise_multiplier
from fedsim.privacy.dp_ftrl.event import MatrixEvent, MatrixTerms
from fedsim.privacy.dp_sgd.release import DpSgdEvent, DpSgdTerms
from fedsim.privacy.events import Law, Ledger, Noise, Relation, Sampling, Spent, Unit
from fedsim.privacy.local_dp.event import LocalDpEvent, LocalDpTerms

EVENT = DpSgdEvent(
    mechanism="dp-sgd",
    round=1,
    client=3,
    unit=Unit.EXAMPLE,
    relation=Relation.ZERO_OUT,
    sensitivity=0.5,
    noise_multiplier=1.1,
    sampling=Sampling.POISSON,
    rate=0.2,
    max_batch=None,
    records=50,
    steps=5,
    noise=Noise.SEEDED,
)

LOCAL = LocalDpEvent(
    mechanism="local-dp",
    round=1,
    client=3,
    unit=Unit.CLIENT,
    relation=Relation.REPLACE_ONE,
    law=Law.GAUSSIAN,
    sensitivity=2.0,
    noise_multiplier=4.0,
    noise=Noise.SYSTEM,
)
COHORT = CohortEvent(
    mechanism="dp-fedavg-adaptive",
    round=1,
    unit=Unit.CLIENT,
    relation=Relation.ZERO_OUT,
    parts=(
        Part(name="update", sensitivity=0.3, noise_multiplier=2.0),
        Part(name="below-clip", sensitivity=0.5, noise_multiplier=2.0),
    ),
    sampling=Sampling.POISSON,
    clients=1000,
    cohort=20,
    max_cohort=None,
    separation=None,
    denominator=20.0,
    noise=Noise.SEEDED,
)

ROW = MatrixEvent(
    mechanism="dp-ftrl",
    strategy="banded",
    round=1,
    rounds=8,
    unit=Unit.CLIENT,
    relation=Relation.ZERO_OUT,
    sum_sensitivity=0.5,
    sensitivity=0.8,
    noise_multiplier=2.0,
    bands=4,
    buffers=None,
    separation=4,
    participations=2,
    sampling=Sampling.SEPARATED,
    clients=1000,
    cohort=20,
    denominator=20.0,
    noise=Noise.SEEDED,
)


def test_an_event_travels_as_json_and_comes_back_as_it_was() -> None:
    tree = json.loads(EVENT.dumps())
    assert tree["noise-multiplier"] == 1.1
    assert tree["relation"] == "zero-out"
    assert DpSgdEvent.loads(EVENT.dumps()) == EVENT


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree.pop("steps"),
        lambda tree: tree.update(more=1),
        lambda tree: tree.update(unit="planet"),
    ],
)
def test_what_is_no_event_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    tree = EVENT.to_json()
    spoil(tree)
    with pytest.raises(ValueError, match=r"no event|planet"):
        DpSgdEvent.from_json(tree)


def test_the_ledger_adds_up_a_clients_steps_and_counts_its_rounds_once() -> None:
    again = replace(EVENT, round=2)
    other = replace(EVENT, client=4, rate=0.5, records=20)
    ledger = Ledger([EVENT, again, again, other])  # a round that was run twice was released twice
    assert len(ledger) == 4
    assert ledger.participations() == {3: 2, 4: 1}
    assert [ledger.releases_of(client) for client in (3, 4, 5)] == [15, 5, 0]
    assert ledger.spent_by_clients() == {
        (DpSgdTerms(1.1, 0.2, None, 50), 15),
        (DpSgdTerms(1.1, 0.5, None, 20), 5),
    }
    assert ledger.spent() == {}  # nothing of the server's


def test_a_change_of_noise_has_no_single_composition() -> None:
    ledger = Ledger([EVENT, replace(EVENT, round=2, noise_multiplier=2.0)])
    with pytest.raises(ValueError, match="client 3's noise or sampling has changed"):
        ledger.spent_by_clients()


def test_a_field_at_its_default_is_left_out_of_a_line_and_may_be_in_it() -> None:
    assert "rate" not in COHORT.to_json()
    assert CohortEvent.from_json({**COHORT.to_json(), "rate": None}) == COHORT
    declared = replace(COHORT, relation=Relation.ADD_OR_REMOVE_ONE, clients=None, rate=0.02)
    assert json.loads(declared.dumps())["rate"] == 0.02
    assert loads(declared.dumps()) == declared


@pytest.mark.parametrize("event", [EVENT, LOCAL, COHORT, ROW], ids=lambda event: type(event).__name__)
def test_each_kind_of_event_is_known_by_its_line(event) -> None:  # type: ignore[no-untyped-def]
    assert loads(event.dumps()) == event
    assert type(event).loads(event.dumps()) == event
    tree = json.loads(event.dumps())
    assert event_of(tree) == event
    assert not any("_" in key for key in tree)
    with pytest.raises(ValueError, match="no event has the keys"):
        event_of({key: value for key, value in tree.items() if key != "unit"})
    for mechanism in ({}, {"mechanism": "dp-nothing"}):
        named = {key: value for key, value in tree.items() if key != "mechanism"} | mechanism
        with pytest.raises(
            ValueError, match=r"no mechanism (None|'dp-nothing') releases events; known: dp-sgd, "
        ):
            event_of(named)


def test_the_parts_of_a_cohorts_release_are_named_in_its_line() -> None:
    tree = json.loads(COHORT.dumps())
    assert tree["parts"][0] == {"name": "update", "sensitivity": 0.3, "noise-multiplier": 2.0}
    tree["parts"][0]["more"] = 1
    with pytest.raises(ValueError, match="no part of an event has the keys more"):
        event_of(tree)


def test_parts_over_one_cohort_cost_as_one_gaussian() -> None:
    # Two releases of noise multiplier 2 on the same clients are one of 2 / sqrt(2), whatever their sensitivities.
    assert COHORT.noise_multiplier == pytest.approx(2 / 2**0.5)
    assert joint_noise_multiplier([COHORT.parts[0]]) == 2.0


def test_rounds_of_a_cohort_are_counted_and_belong_to_no_client() -> None:
    again = replace(COHORT, round=2, parts=(replace(COHORT.parts[0], sensitivity=0.9), COHORT.parts[1]))
    ledger = Ledger([COHORT, again, EVENT])  # another clip norm, the same noise over it
    terms = CohortTerms(COHORT.noise_multiplier, Relation.ZERO_OUT, Sampling.POISSON, 1000, 20, None, None)
    assert ledger.spent() == {terms: Spent(count=2, last=2)}
    assert ledger.participations() == {3: 1}
    assert Ledger([EVENT]).spent() == {}
    late = Ledger([COHORT, again, replace(COHORT, round=5)])  # rounds 3 and 4 had no sum
    assert late.spent() == {terms: Spent(count=3, last=5)}
    twice = Ledger([COHORT, again, again])  # a round that is there twice counts twice
    assert twice.spent() == {terms: Spent(count=3, last=2, repeated=True)}
    ledger.extend([replace(COHORT, round=3, cohort=21)])
    assert ledger.spent() == {
        terms: Spent(count=2, last=2),
        terms._replace(cohort=21): Spent(count=1, last=3),
    }


def test_local_releases_are_counted_by_client() -> None:
    ledger = Ledger([LOCAL, replace(LOCAL, round=2), replace(LOCAL, client=5)])
    assert ledger.spent_by_clients() == {
        (LocalDpTerms(Law.GAUSSIAN, 4.0), 2),
        (LocalDpTerms(Law.GAUSSIAN, 4.0), 1),
    }
    assert (ledger.spent(), ledger.participations()) == ({}, {3: 2, 5: 1})
    ledger.extend([replace(LOCAL, round=3, law=Law.LAPLACE)])
    with pytest.raises(ValueError, match="client 3's noise"):
        ledger.spent_by_clients()


def test_rows_of_correlated_noise_are_one_mechanism_and_each_comes_once() -> None:
    later = replace(ROW, round=5)  # rounds 2 to 4 released nothing
    ledger = Ledger([ROW, later])
    assert ledger.participations() == {}
    ((terms, spent),) = ledger.spent().items()
    assert terms == ROW.terms()
    assert isinstance(terms, MatrixTerms)
    assert (terms.noise_multiplier, terms.bands) == (2.0, 4)
    assert spent == Spent(count=2, last=5)
    assert Ledger().spent() == {}
    ledger.extend([later])
    assert ledger.spent() == {terms: Spent(count=3, last=5, repeated=True)}
    changed = Ledger([ROW, replace(later, noise_multiplier=1.0)])
    assert changed.spent().keys() == {terms, terms._replace(noise_multiplier=1.0)}
