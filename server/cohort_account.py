"""What client-level privacy by a trusted server costs over a run: the noise that it takes, before; what was spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedsim.client_level_sections import DpFedavgSection
from fedsim.errors import Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.privacy.accounting import pld
from fedsim.privacy.cohorts import Cohorts
from fedsim.privacy.dp_fedavg.accounting import Answer, CohortSum, noise_for, released_models, side_by_side
from fedsim.privacy.events import Noise, Sampling, Unit
from fedsim.server.cohort import max_cohort_of
from fedsim.server.kept_ledger import KeptByServer

WHO = {
    "server": "the server: it is trusted, and sees the sums before the noise",
    "known-cohort": "whoever sees the global models and knows who takes part",
    "released-models": "whoever sees the global models alone, and not who takes part",
}


class CohortAccount(KeptByServer):
    """The account of client-level privacy over a run.

    Protected is all of one client's data. Under zero-out the number of clients is public; under add-or-remove-one it
    is protected, and nothing that is said here is made of it: the cohorts' rate is the one that is declared.

    Every round that was begun counts, whether or not a sum came of it (`_counted`).

    Attributes:
        noise_multiplier: Of what is released in a round: given, or calibrated for the epsilon of the experiment.
        cohorts: How cohorts are drawn.
    """

    def __init__(
        self, experiment: Experiment, section: DpFedavgSection, clients: int, said: dict[Noise, str]
    ) -> None:
        """Make the account of so many clients; `said` is what the manifest says of where noise comes from.

        Raises:
            Refused: delta is too large for so few clients, or no noise reaches the epsilon.
        """
        super().__init__(Noise(experiment.privacy.noise))
        if section.rate is None:
            check_delta_of_clients("dp-fedavg", section.delta, clients)
        else:
            _check_delta_of_rate(section.delta, experiment.server.cohort, section.rate)
        self._section = section
        self._rounds = experiment.rounds
        self._said = said
        self._answers: dict[int, dict[str, Answer]] = {}  # the last answer, by rounds
        self._last_begun = 0
        self.cohorts = _cohorts(experiment, section, clients)
        self.noise_multiplier = section.noise_multiplier or self._calibrated()

    # --- during the run -----------------------------------------------------------------------------------

    def check_room(self, round_: int, clients: Sequence[int] = ()) -> None:
        """Refuse a round that would be one more than are planned, by what the ledger has; note that it was begun.

        Args:
            round_: That is about to begin, or to release its sum; from 1.
            clients: Not needed: a round is released as a whole.

        Raises:
            RunFailed: It would be.
        """
        try:
            so_far = self._released
        except ValueError as error:
            raise RunFailed(f"round {round_}: {error}") from None
        if max(so_far + 1, round_) > self._rounds:
            raise RunFailed(
                f"round {round_}: the ledger has {so_far} rounds, of {self._rounds} that are planned for the whole run; "
                "nothing goes on past its budget"
            )
        self._last_begun = max(self._last_begun, round_)

    def columns(self, rounds: int) -> dict[str, Any]:
        """Return what a row says: epsilon so far, by adversary, with what belongs to it."""
        release, done = self._release, self._counted(rounds)
        answers = self._side_by_side(done)
        return {
            f"epsilon-{name}": answer.epsilon.best
            for name, answer in answers.items()
            if answer.epsilon is not None and math.isfinite(answer.epsilon.best)
        } | {
            "noise-multiplier": self.noise_multiplier,
            "sampling-rate": release.rate,
            "dp-steps": done,
            "delta": self._section.delta,
            "unit": Unit.CLIENT.value,
            "relation": self._section.relation,
        }

    # --- what it costs ------------------------------------------------------------------------------------

    def report(self, rounds: int) -> dict[str, Any]:
        """Return what the manifest says, by adversary: epsilon of the whole run, and what is spent."""
        spent = self._side_by_side(self._counted(rounds))
        report = {
            name: self._entry(answer) | {"who": WHO[name], "spent": plain(spent[name])}
            for name, answer in self._side_by_side(self._rounds).items()
        }
        section = self._section
        if section.population is not None and section.population_cohort is not None:
            report["population"] = self._of_population(section.population, section.population_cohort)
        return report

    def _entry(self, answer: Answer) -> dict[str, Any]:
        release, section = self._release, self._section
        bounds = {} if answer.epsilon is None else {"pld": answer.epsilon.pld, "rdp": answer.epsilon.rdp}
        return {
            "epsilon": plain(answer),
            **{name: value for name, value in bounds.items() if value is None or math.isfinite(value)},
            "why": answer.why,
            "relation": answer.relation.value if answer.relation is not None else section.relation,
            "unit": Unit.CLIENT.value,
            "noise": self._said[self.noise],
            "noise-multiplier": release.noise_multiplier,
            "clip": section.clip,
            "sampling": release.sampling.value,
            "client-rate": release.rate,
            "rounds": self._rounds,
            "delta": section.delta,
        }

    def _of_population(self, clients: int, cohort: int) -> dict[str, Any]:
        """Return the epsilon of a deployment that the simulation stands for."""
        larger = self._release.of_population(clients, cohort, self.cohorts.cohort)
        try:
            answer = released_models(larger, self._rounds, self._section.delta)
        except ValueError as error:
            answer = Answer(None, None, str(error))
        return self._entry(answer) | {
            "who": f"whoever sees the models of a deployment with {clients} clients, cohorts of {cohort}, and the same "
            "noise on the mean; it says nothing of the simulated clients",
            "noise-multiplier": larger.noise_multiplier,
            "client-rate": larger.rate,
        }

    @property
    def _release(self) -> CohortSum:
        """What a round releases."""
        cohorts = self.cohorts
        return CohortSum(
            noise_multiplier=self.noise_multiplier,
            rate=cohorts.rate,
            sampling=cohorts.sampling,
            relation=self._section.neighbours,
            clients=cohorts.clients,
            max_cohort=cohorts.max_cohort,
            cohort=cohorts.cohort,
        )

    def _counted(self, rounds: int) -> int:
        """Return how many rounds count after so many that are whole: all that were begun, with a sum or without.

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
        return max(rounds, self._last_begun, self._released)

    @property
    def _released(self) -> int:
        """How many rounds the ledger tells of; `ValueError` where they are not of this account's mechanism."""
        spent = self.ledger.spent_by_cohorts()
        if spent is None:
            return 0
        release, count = spent
        if not math.isclose(release.noise_multiplier, self.noise_multiplier, rel_tol=1e-9):
            raise ValueError(
                f"the ledger's noise multiplier is {release.noise_multiplier}, this run's {self.noise_multiplier}"
            )
        return count

    def _side_by_side(self, rounds: int) -> dict[str, Answer]:
        if rounds not in self._answers:
            kept = self._answers.get(self._rounds)
            self._answers = {self._rounds: kept} if kept is not None else {}
            tolerance = pld.TOLERANCE if rounds == self._rounds else pld.ROUGH
            self._answers[rounds] = side_by_side(
                self._release, rounds, self._section.delta, tolerance=tolerance
            )
        return self._answers[rounds]

    def _calibrated(self) -> float:
        """Return the least noise that keeps the experiment's epsilon at the end of the run."""
        section = self._section
        if section.epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        self.noise_multiplier = 1.0  # of which nothing depends in what follows
        try:
            return noise_for(section.epsilon, section.adversary, self._release, self._rounds, section.delta)
        except ValueError as error:
            raise Refused(f"privacy.dp-fedavg.epsilon = {section.epsilon}: {error}") from None


def _cohorts(experiment: Experiment, section: DpFedavgSection, clients: int) -> Cohorts:
    """Return an experiment's rule for cohorts, in which their number is not where it is protected."""
    server = experiment.server
    return Cohorts(
        sampling=Sampling(server.sampling),
        clients=clients if section.rate is None else None,
        cohort=server.cohort,
        max_cohort=max_cohort_of(server, clients),
        declared=section.rate,
    )


def plain(answer: Answer) -> float | str | None:
    """Return an epsilon as JSON can say it."""
    if answer.epsilon is None:
        return None
    return answer.epsilon.best if math.isfinite(answer.epsilon.best) else "infinite"


def check_delta_of_clients(table: str, delta: float, clients: int) -> None:
    """Raise `Refused` for a delta of a table under `[privacy]` that is too large for so few clients."""
    if delta >= 1 / clients:
        raise Refused(
            f"privacy.{table}.delta = {delta}: must be below 1 / clients = 1 / {clients}: a mechanism "
            "that publishes one client at random would pass"
        )


def _check_delta_of_rate(delta: float, cohort: int, rate: float) -> None:
    """Raise `Refused` for a delta that is too large for the clients that are expected: the number itself is protected."""
    if delta >= rate / cohort:
        raise Refused(
            f"privacy.dp-fedavg.delta = {delta}: must be below privacy.dp-fedavg.rate / server.cohort = "
            f"{rate / cohort:.4g}, 1 / the clients that are expected: a mechanism that publishes one client at random "
            "would pass"
        )
