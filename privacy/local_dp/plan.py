"""Local DP's plan for a training: its noise and its cost."""

from __future__ import annotations

import math
from typing import Any

from fedsim.privacy.accounting.steps import SERVER, Epsilon
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.events import Law, Ledger, Noise, Relation, Unit
from fedsim.privacy.local_dp import accounting
from fedsim.privacy.local_dp.event import LocalDpEvent, LocalDpTerms
from fedsim.privacy.local_dp.settings import LocalDpSettings
from fedsim.privacy.plan import NOISE, ReleasedByClients
from fedsim.privacy.training import Training, Unfit, check_delta_of_clients

WHO = (
    "everybody: the server, and whoever else sees a client's updates and when it takes part; who sees less, as the "
    "models alone, learns no more"
)


class LocalDpPlan(ReleasedByClients):
    """Local DP for a training.

    Unit: a client, with all its data, against all adversaries. Clients have disjoint data, so reports give the
    largest of their epsilons, not the sum. Cohorts don't amplify, since participation is not hidden.

    Raises:
        ValueError: delta is too large for so few clients, no noise reaches the epsilon, or the noise has no finite one.
    """

    def __init__(self, settings: LocalDpSettings, training: Training) -> None:
        if settings.delta is not None:
            check_delta_of_clients(settings.delta, training.clients)
        rule = training.rule
        self._settings = settings
        self._noise = training.noise
        self.cohorts = Cohorts.of(rule.sampling, rule.cohort, training.clients, most=rule.max_cohort)
        self.most = settings.max_participations
        self.participations = settings.participations(training.rounds)
        try:
            self.noise_multiplier = settings.calibrated(training.rounds)
        except ValueError as error:
            raise Unfit("epsilon", settings.epsilon, str(error)) from None
        if not math.isfinite(self._epsilon(self.participations).best):
            raise Unfit("noise-multiplier", self.noise_multiplier, "so little noise has no finite epsilon")

    def releases(self, client: int) -> int:
        """Return 1: a client releases its update."""
        return 1

    def planned(self, round_: int, client: int) -> LocalDpEvent:
        """Return the event of a client's update. As `ReleasedByClients` says."""
        law, sensitivity = Law(self._settings.law), 2 * self._settings.clip
        return LocalDpEvent.of(round_, client, law, sensitivity, self.noise_multiplier, self._noise)

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the columns of a round's row: the most that a client has spent so far. As `Plan` says."""
        spent = self._spent(ledger, rounds)
        return {
            f"epsilon-{SERVER}": self._epsilon(spent).best,
            "noise-multiplier": self.noise_multiplier,
            "sampling-rate": 1.0,  # each release uses all of a client's data
            "dp-steps": spent,
            "delta": self._settings.delta or 0.0,
            "unit": Unit.CLIENT.value,
            "relation": Relation.REPLACE_ONE.value,
        }

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the manifest's report. As `Plan` says."""
        settings, epsilon = self._settings, self._epsilon(self.participations)
        return {
            SERVER: {
                "who": WHO,
                "epsilon": epsilon.best,
                "pld": epsilon.pld,
                "rdp": epsilon.rdp,
                "spent": self._epsilon(self._spent(ledger, rounds)).best,
                "unit": Unit.CLIENT.value,
                "relation": Relation.REPLACE_ONE.value,
                "noise": NOISE[self._noise],
                "law": settings.law,
                "noise-multiplier": self.noise_multiplier,
                "clip": settings.clip,
                "participations": self.participations,
                "delta": settings.delta or 0.0,
            }
        }

    def _epsilon(self, participations: int) -> Epsilon:
        return accounting.epsilon_of(self.noise_multiplier, participations, self._settings.delta)

    def _spent(self, ledger: Ledger, rounds: int) -> int:
        """Return the most updates that a client has released; raises `ValueError` for another mechanism's ledger.

        With the operating system's noise it is the most that a client can have released in these rounds, since the
        result is public and participations are not.
        """
        most = min(self.participations, rounds) if self._noise is Noise.SYSTEM else 0
        for terms, count in ledger.spent_by_clients():
            if not isinstance(terms, LocalDpTerms):
                raise ValueError("the ledger's updates are of another mechanism")
            if terms.law != self._settings.law or not math.isclose(
                terms.noise_multiplier, self.noise_multiplier, rel_tol=1e-9
            ):
                raise ValueError(
                    f"the ledger's noise is {terms.law}, multiplier {terms.noise_multiplier}; this run's "
                    f"{self._settings.law}, {self.noise_multiplier}"
                )
            most = max(most, count)
        return most
