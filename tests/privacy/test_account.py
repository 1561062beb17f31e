"""The privacy account: when events are written, and to which file; with local DP and DP-FedAvg."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedsim.privacy.account import Account
from fedsim.privacy.dp_fedavg.plan import DpFedAvgPlan
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.events import Event, Noise
from fedsim.privacy.local_dp.plan import LocalDpPlan
from fedsim.privacy.local_dp.settings import LocalDpSettings
from fedsim.privacy.plan import Plan
from tests.privacy.test_ledger import COHORT
from tests.privacy.trainings import training

TRAINING = training(rounds=4, clients=6, cohort=3)
LOCAL = LocalDpPlan(
    LocalDpSettings(noise_multiplier=0.8, delta=1e-3, clip=0.5, max_participations=2), TRAINING
)
SERVERS = DpFedAvgPlan(DpFedAvgSettings(noise_multiplier=2.0, delta=1e-3, clip=0.5), TRAINING)


@dataclass
class File:
    """The file of a ledger, in memory; clients note what they release in `late`."""

    lasting: bool
    path: Path = Path("ledger.jsonl")
    written: list[Event] = field(default_factory=list)
    late: list[Event] = field(default_factory=list)

    def write(self, events: Sequence[Event]) -> None:
        self.written += events

    def take(self, events: Sequence[Event]) -> Sequence[Event]:
        if not self.lasting:
            self.written += events
            return events
        taken, self.late = self.late, []
        return taken


def opened(plan: Plan, *, lasting: bool, charges_ahead: bool = False) -> tuple[Account, File]:
    made = Account(plan, Noise.SYSTEM if lasting else Noise.SEEDED, charges_ahead=charges_ahead)
    file = File(lasting)
    made.open(file, [])
    return made, file


def events(*clients: int, round_: int = 1) -> list[Event]:
    return [LOCAL.planned(round_, client) for client in clients]


def test_events_in_replies_are_written_and_counted() -> None:
    account, file = opened(LOCAL, lasting=False)
    account.charge(1, [0, 1])
    assert len(account.ledger) == 0  # nothing is charged ahead
    account.note_reported(events(0, 1))
    assert list(account.ledger) == file.written == events(0, 1)
    assert "ledger" not in account.instructions()


def test_events_charged_ahead_are_written_at_once_and_replies_do_not_count() -> None:
    account, file = opened(LOCAL, lasting=True, charges_ahead=True)
    account.charge(1, [0, 1])
    assert list(account.ledger) == file.written == events(0, 1)
    account.note_reported(events(0, 1))
    assert len(account.ledger) == 2
    account.charge(2, [0])
    account.charge(3, [0, 1])  # the first refuses: it may take part twice
    assert account.ledger.participations() == {0: 2, 1: 2}
    assert "ledger" not in account.instructions()


def test_where_clients_note_in_the_file_themselves_late_ones_count_before_the_next_round() -> None:
    account, file = opened(LOCAL, lasting=True)
    assert account.instructions() == {"ledger": "ledger.jsonl"}
    account.note_reported(events(5))  # which is in the file, or wasn't released
    assert len(account.ledger) == 0
    for round_ in (1, 2):
        file.late += events(3, round_=round_)
    assert account.exhausted([2, 3]).keys() == {3}
    file.late += events(2)
    account.check_room(3, [0, 2])
    file.late += events(2, round_=2)
    with pytest.raises(ValueError, match="client 2 has 2 releases in the ledger, of 2 that are planned"):
        account.check_room(3, [0, 2])
    assert file.written == []


@pytest.mark.parametrize("lasting", [False, True])
def test_releases_of_the_server_count_and_events_from_clients_do_not(lasting: bool) -> None:
    account, file = opened(SERVERS, lasting=lasting, charges_ahead=True)
    assert not account.charges_ahead
    account.charge(1, [0, 1])
    file.late += events(0)
    account.note_reported(events(0))
    assert (account.exhausted([0, 1]), account.instructions()) == ({}, {})
    account.note_released(COHORT)
    assert list(account.ledger) == file.written == [COHORT]


def test_a_resumed_run_counts_the_events_in_its_file() -> None:
    account = Account(LOCAL, Noise.SEEDED, charges_ahead=False)
    file = File(lasting=False)
    account.open(file, events(4) + events(4, round_=2))
    assert account.exhausted([4, 5]).keys() == {4}
    assert file.written == []
