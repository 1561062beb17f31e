"""Training without a privacy mechanism: no noise, and no accounting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsim.privacy.client_half import ClientDraws, ClientHalf
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.events import Unit
from fedsim.privacy.intent import Intent
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.plan import Plan
from fedsim.privacy.settings import Section
from fedsim.privacy.training import Training


class Unprotected(Mechanism[Section]):
    """No privacy mechanism."""

    name = "none"
    unit = Unit.EXAMPLE
    Settings = Section
    takes_any_sampling = True

    def plan(self, settings: Section, training: Training) -> UnprotectedPlan:
        """Return the plan of an unprotected training."""
        return UnprotectedPlan(training)

    def client(self, settings: Section, intent: Intent, draws: ClientDraws) -> ClientHalf:
        """Return the client's half: it does nothing."""
        return ClientHalf()


class UnprotectedPlan(Plan):
    """The plan of an unprotected training: cohorts only."""

    by_clients = False

    def __init__(self, training: Training) -> None:
        rule = training.rule
        self.cohorts = Cohorts.of(rule.sampling, rule.cohort, training.clients, most=rule.max_cohort)
        self.noise_multiplier = 0.0

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Do nothing: there is no budget."""

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return nothing: there is no epsilon."""
        return {}

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return nothing: there is no epsilon."""
        return {}
