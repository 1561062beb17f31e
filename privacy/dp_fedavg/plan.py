"""DP-FedAvg's plan for a training: its noise and its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedsim.privacy.accounting import pld
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.accounting import (
    AdversaryCost,
    CohortMechanism,
    noise_for,
    released_models,
    side_by_side,
    to_json,
)
from fedsim.privacy.dp_fedavg.event import CohortTerms
from fedsim.privacy.dp_fedavg.server import DpFedAvgServer
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.events import Ledger, Unit
from fedsim.privacy.plan import NOISE, Plan
from fedsim.privacy.training import Draws, Training, Unfit, check_delta_of_clients

WHO = {
    "server": "the server: it is trusted, and sees the sums before the noise",
    "known-cohort": "whoever sees the global models and knows who takes part",
    "released-models": "whoever sees the global models alone, and not who takes part",
}


class DpFedAvgPlan(Plan):
    """DP-FedAvg for a training.

    Unit: a client, with all its data. Under zero-out the number of clients is public. Under add-or-remove-one it is
    protected, and no number here depends on it: the cohorts' rate is declared.

    Every begun round counts, with or without a sum (`_counted`).

    Attributes:
        noise_multiplier: Of a round's release: given, or calibrated to an epsilon.
        cohorts: How cohorts are drawn.
    """

    by_clients = False

    def __init__(self, settings: DpFedAvgSettings, training: Training) -> None:
        """Make the plan.

        Raises:
            ValueError: delta is too large for so few clients, or no noise reaches the epsilon.
        """
        rule = training.rule
        if settings.rate is None:
            check_delta_of_clients(settings.delta, training.clients)
        else:
            _check_delta_of_rate(settings.delta, rule.cohort, settings.rate)
        self._settings = settings
        self._training = training
        self._rounds = training.rounds
        self._answers: dict[int, dict[str, AdversaryCost]] = {}  # the last answer, by rounds
        self.cohorts = Cohorts.of(
            rule.sampling, rule.cohort, training.clients, most=rule.max_cohort, declared=settings.rate
        )
        self.noise_multiplier = settings.noise_multiplier or self._calibrated()

    def server(self, draws: Draws) -> DpFedAvgServer:
        """Return the server's half. As `Plan` says."""
        return DpFedAvgServer(self._settings, self._training, self.cohorts, self.noise_multiplier, draws)

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round beyond the planned ones. As `Plan` says."""
        so_far = self._released(ledger)
        if max(so_far + 1, round_) > self._rounds:
            raise ValueError(
                f"the ledger has {so_far} rounds, of {self._rounds} that are planned for the whole run; nothing goes on "
                "past its budget"
            )

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the columns of a round's row. As `Plan` says."""
        release, done = self._release, self._counted(ledger, rounds)
        answers = self._side_by_side(done)
        return {
            f"epsilon-{name}": answer.epsilon.best
            for name, answer in answers.items()
            if answer.epsilon is not None and math.isfinite(answer.epsilon.best)
        } | {
            "noise-multiplier": self.noise_multiplier,
            "sampling-rate": release.rate,
            "dp-steps": done,
            "delta": self._settings.delta,
            "unit": Unit.CLIENT.value,
            "relation": self._settings.relation,
        }

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the manifest's report. As `Plan` says."""
        spent = self._side_by_side(self._counted(ledger, rounds))
        report = {
            name: self._entry(answer) | {"who": WHO[name], "spent": to_json(spent[name])}
            for name, answer in self._side_by_side(self._rounds).items()
        }
        settings = self._settings
        if settings.population is not None and settings.population_cohort is not None:
            report["population"] = self._of_population(settings.population, settings.population_cohort)
        return report

    def _entry(self, answer: AdversaryCost) -> dict[str, Any]:
        release, settings = self._release, self._settings
        bounds = {} if answer.epsilon is None else {"pld": answer.epsilon.pld, "rdp": answer.epsilon.rdp}
        return {
            "epsilon": to_json(answer),
            **{name: value for name, value in bounds.items() if value is None or math.isfinite(value)},
            "why": answer.why,
            "relation": answer.relation.value if answer.relation is not None else settings.relation,
            "unit": Unit.CLIENT.value,
            "noise": NOISE[self._training.noise],
            "noise-multiplier": release.noise_multiplier,
            "clip": settings.clip,
            "sampling": release.sampling.value,
            "client-rate": release.rate,
            "rounds": self._rounds,
            "delta": settings.delta,
        }

    def _of_population(self, clients: int, cohort: int) -> dict[str, Any]:
        """Return the epsilon of the deployment that the simulation represents."""
        larger = self._release.of_population(clients, cohort, self.cohorts.cohort)
        try:
            answer = released_models(larger, self._rounds, self._settings.delta)
        except ValueError as error:
            answer = AdversaryCost(None, None, str(error))
        return self._entry(answer) | {
            "who": f"whoever sees the models of a deployment with {clients} clients, cohorts of {cohort}, and the same "
            "noise on the mean; it says nothing of the simulated clients",
            "noise-multiplier": larger.noise_multiplier,
            "client-rate": larger.rate,
        }

    @property
    def _release(self) -> CohortMechanism:
        """What a round releases."""
        cohorts = self.cohorts
        return CohortMechanism(
            noise_multiplier=self.noise_multiplier,
            rate=cohorts.rate,
            sampling=cohorts.sampling,
            relation=self._settings.neighbours,
            clients=cohorts.clients,
            max_cohort=cohorts.max_cohort,
            cohort=cohorts.cohort,
        )

    def _counted(self, ledger: Ledger, rounds: int) -> int:
        """Return the number of rounds that count: all that began, with or without a sum.

        With secure aggregation a round has no sum if too few of its cohort are available. Sampling holds for planned
        rounds, not for rounds conditioned on a sum: an available client makes a sum more likely, so given a sum it
        was drawn with a probability above `cohort / clients`. Availability does not depend on the data. Given the
        available clients, a round is a function of the cohort's data (a noised sum, or no sum) that one client
        changes no more than the Gaussian mechanism does. The theorem for samples without replacement (Wang, Balle,
        Kasiviswanathan 2019) covers any function of the sample, and by joint convexity of the divergence the mixture
        over available clients costs no more than the worst case.

        Without secure aggregation every round releases a sum, zeros for an empty cohort, and the ledger has them all.

        Raises:
            ValueError: The ledger belongs to another mechanism.
        """
        return max(rounds, self._released(ledger))

    def _released(self, ledger: Ledger) -> int:
        """Return the number of rounds that the ledger counts.

        A round without an event before the last one counts too: the missing sum is itself a release.

        Raises:
            ValueError: The ledger belongs to another mechanism.
        """
        if len(ledger.spent()) > 1:
            raise ValueError("the noise or the cohorts' rule has changed between the rounds")
        for terms, spent in ledger.spent().items():
            if not isinstance(terms, CohortTerms):
                raise ValueError("the ledger's rounds are of another mechanism")
            if not math.isclose(terms.noise_multiplier, self.noise_multiplier, rel_tol=1e-9):
                raise ValueError(
                    f"the ledger's noise multiplier is {terms.noise_multiplier}, this run's {self.noise_multiplier}"
                )
            return max(spent.count, spent.last)
        return 0

    def _side_by_side(self, rounds: int) -> dict[str, AdversaryCost]:
        if rounds not in self._answers:
            kept = self._answers.get(self._rounds)
            self._answers = {self._rounds: kept} if kept is not None else {}
            tolerance = pld.TOLERANCE if rounds == self._rounds else pld.ROUGH
            self._answers[rounds] = side_by_side(
                self._release, rounds, self._settings.delta, tolerance=tolerance
            )
        return self._answers[rounds]

    def _calibrated(self) -> float:
        """Return the least noise that keeps the experiment's epsilon at the end of the run."""
        settings = self._settings
        if settings.epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        self.noise_multiplier = 1.0  # placeholder: calibration ignores it
        try:
            return noise_for(
                settings.epsilon, settings.adversary, self._release, self._rounds, settings.delta
            )
        except ValueError as error:
            raise Unfit("epsilon", settings.epsilon, str(error)) from None


def _check_delta_of_rate(delta: float, cohort: int, rate: float) -> None:
    """Raise `Unfit` for a delta too large for the expected number of clients, the true one being protected."""
    if delta >= rate / cohort:
        raise Unfit(
            "delta",
            delta,
            f"must be below privacy.dp-fedavg.rate / server.cohort = {rate / cohort:.4g}, 1 / the clients that are "
            "expected: a mechanism that publishes one client at random would pass",
        )
