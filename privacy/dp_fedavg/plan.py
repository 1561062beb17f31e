"""DP-FedAvg's plan for a training: its noise and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsim.privacy.accounting import pld
from fedsim.privacy.accounting.steps import AdversaryCost
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism, noise_for, released_models, side_by_side
from fedsim.privacy.dp_fedavg.event import CohortTerms
from fedsim.privacy.dp_fedavg.server import DpFedAvgServer
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.events import Ledger
from fedsim.privacy.server_plan import ReleasedByServer, spent_in
from fedsim.privacy.training import Draws, Training, Unfit, check_delta_of_clients


class DpFedAvgPlan(ReleasedByServer):
    """DP-FedAvg for a training.

    Under zero-out the number of clients is public. Under add-or-remove-one it is protected, and no number here
    depends on it: the cohorts' rate is declared.

    Raises:
        ValueError: delta is too large for so few clients, or no noise reaches the epsilon.
    """

    def __init__(self, settings: DpFedAvgSettings, training: Training) -> None:
        super().__init__(training, settings.neighbours, settings.delta)
        rule = training.rule
        if settings.rate is None:
            check_delta_of_clients(settings.delta, training.clients)
        elif settings.delta >= settings.rate / rule.cohort:
            raise Unfit(
                "delta",
                settings.delta,
                f"must be below privacy.dp-fedavg.rate / server.cohort = {settings.rate / rule.cohort:.4g}, 1 / the clients "
                "that are expected: a mechanism that publishes one client at random would pass",
            )
        self._settings = settings
        self._answers: dict[int, dict[str, AdversaryCost]] = {}  # the last and the whole run's, by rounds
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

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the manifest's report, also for the deployment that the run represents. As `Plan` says."""
        report, settings = super().report(ledger, rounds), self._settings
        if settings.population is not None and settings.population_cohort is not None:
            report["population"] = self._of_population(settings.population, settings.population_cohort)
        return report

    def _terms(self, adversary: str) -> dict[str, Any]:
        return {
            "noise-multiplier": self.noise_multiplier,
            "clip": self._settings.clip,
            "sampling": self.cohorts.sampling.value,
            "client-rate": self.cohorts.rate,
        }

    def _of_population(self, clients: int, cohort: int) -> dict[str, Any]:
        """Return the epsilon of the deployment that the simulation represents."""
        larger = self._release.of_population(clients, cohort, self.cohorts.cohort)
        try:
            answer = released_models(larger, self._rounds, self._settings.delta)
        except ValueError as error:
            answer = AdversaryCost(None, None, str(error))
        own = {"noise-multiplier": larger.noise_multiplier, "client-rate": larger.rate}
        return self._entry(answer, self._terms("population") | own) | {
            "who": f"whoever sees the models of a deployment with {clients} clients, cohorts of {cohort}, and the same "
            "noise on the mean; it says nothing of the simulated clients",
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
        """
        return max(rounds, self._released(ledger))

    def _released(self, ledger: Ledger) -> int:
        """Return the number of rounds that the ledger counts; one without an event before the last counts too."""
        spent = spent_in(ledger, CohortTerms, self.noise_multiplier)
        return max(spent.count, spent.last)

    def _costs(self, rounds: int) -> dict[str, AdversaryCost]:
        if rounds not in self._answers:
            self._answers = {kept: costs for kept, costs in self._answers.items() if kept == self._rounds}
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
