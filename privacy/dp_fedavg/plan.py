"""DP-FedAvg planned for a training: the noise that it takes, and what it costs."""

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
from fedsim.privacy.events import Unit
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.plan import NOISE, Plan
from fedsim.privacy.training import Draws, Training, Unfit, check_delta_of_clients

WHO = {
    "server": "the server: it is trusted, and sees the sums before the noise",
    "known-cohort": "whoever sees the global models and knows who takes part",
    "released-models": "whoever sees the global models alone, and not who takes part",
}


class DpFedAvgPlan(Plan):
    """DP-FedAvg for a training.

    Protected is all of one client's data. Under zero-out the number of clients is public; under add-or-remove-one it
    is protected, and no number here depends on it: the cohorts' rate is the one that is declared.

    Every round that was begun counts, whether or not a sum came of it (`_counted`).

    Attributes:
        noise_multiplier: Of what is released in a round: given, or calibrated for the epsilon that was asked for.
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
        """Refuse a round that would be one more than are planned. As `Plan` says."""
        so_far = self._released(ledger)
        if max(so_far + 1, round_) > self._rounds:
            raise ValueError(
                f"the ledger has {so_far} rounds, of {self._rounds} that are planned for the whole run; nothing goes on "
                "past its budget"
            )

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return what the row of a round says. As `Plan` says."""
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
        """Return what the manifest says. As `Plan` says."""
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
        """Return the epsilon of a deployment that the simulation stands for."""
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
        """Return how many rounds count: all that were begun, with a sum or without.

        With secure aggregation a round has no sum where too few of its cohort are there. The cohorts' rule is of the
        rounds that were planned: given that a sum came, a client that is always there was in the cohort more often
        than `cohort / clients` says, for it helped the sum to come, and the law of as many rounds as there were sums is
        not that of those sums. Over the planned rounds it holds. Who is there does not depend on the data. Given that, a
        round is one function of the cohort's data (their sum with noise, or the word that there is none), which one
        client moves by no more than the Gaussian does, and by nothing where there is no sum; the theorem for
        samples without replacement (Wang, Balle, Kasiviswanathan 2019) is of any function of the sample, and by joint
        convexity of the divergence a mixture over who is there costs no more than the worst of them.

        In clear every round releases its sum, of zeros where nobody was there, and the ledger has them all.

        Raises:
            ValueError: The ledger's rounds are not of this account's mechanism.
        """
        return max(rounds, self._released(ledger))

    def _released(self, ledger: Ledger) -> int:
        """Return how many rounds the ledger counts.

        A round before the last that has no event, as its sum did not come, counts too: that there was none is
        something that the round has told, and it was one of those that the cohorts' rule is of.

        Raises:
            ValueError: They are not of this plan's mechanism.
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
        self.noise_multiplier = 1.0  # of which nothing depends in what follows
        try:
            return noise_for(
                settings.epsilon, settings.adversary, self._release, self._rounds, settings.delta
            )
        except ValueError as error:
            raise Unfit("epsilon", settings.epsilon, str(error)) from None


def _check_delta_of_rate(delta: float, cohort: int, rate: float) -> None:
    """Refuse a delta that is too large for the clients that are expected, whose number itself is protected.

    Raises:
        Unfit: It is.
    """
    if delta >= rate / cohort:
        raise Unfit(
            "delta",
            delta,
            f"must be below privacy.dp-fedavg.rate / server.cohort = {rate / cohort:.4g}, 1 / the clients that are "
            "expected: a mechanism that publishes one client at random would pass",
        )
