import json
from dataclasses import replace

import pytest

from privacy.ledger import Event, Ledger, Noise, Relation, Release, Sampling, Unit

EVENT = Event(
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


def test_an_event_travels_as_json_and_comes_back_as_it_was() -> None:
    tree = json.loads(EVENT.dumps())
    assert tree["noise-multiplier"] == 1.1
    assert tree["relation"] == "zero-out"
    assert Event.loads(EVENT.dumps()) == EVENT


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
        Event.from_json(tree)


def test_the_ledger_adds_up_a_clients_steps_and_counts_its_rounds_once() -> None:
    again = replace(EVENT, round=2)
    other = replace(EVENT, client=4, rate=0.5, records=20)
    ledger = Ledger([EVENT, again, again, other])  # a round that was run twice was released twice
    assert len(ledger) == 4
    assert ledger.participations() == {3: 2, 4: 1}
    assert ledger.spent() == {(Release(1.1, 0.2, None, 50), 15), (Release(1.1, 0.5, None, 20), 5)}


def test_a_change_of_noise_has_no_single_composition() -> None:
    ledger = Ledger([EVENT, replace(EVENT, round=2, noise_multiplier=2.0)])
    with pytest.raises(ValueError, match="client 3's noise or sampling has changed"):
        ledger.spent()
