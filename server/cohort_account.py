"""What client-level privacy by a trusted server costs over a run: the noise that it takes, before; what was spent."""

from __future__ import annotations

import math
from typing import Any

from fedsim.client_level_sections import DpFedavgSection
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from privacy.accounting import laws
from privacy.accounting.central import Answer, CohortSum, noise_for, released_models, side_by_side
from privacy.cohorts import Cohorts
from privacy.events import Noise, Sampling, Unit
from server.cohort import max_cohort_of
from server.kept_ledger import KeptByServer

WHO = {
    "server": "the server: it is trusted, and sees the sums before the noise",
    "known-cohort": "whoever sees the global models and knows who takes part",
    "released-models": "whoever sees the global models alone, and not who takes part",
}


class CohortAccount(KeptByServer):
    """The account of client-level privacy over a run.

    Protected is all of one client's data. The number of clients is public.

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
        check_delta_of_clients("dp-fedavg", section.delta, clients)
        self._section = section
        self._rounds = experiment.rounds
        self._said = said
        self._answers: dict[int, dict[str, Answer]] = {}  # the last answer, by rounds
        self.cohorts = _cohorts(experiment, clients)
        self.noise_multiplier = section.noise_multiplier or self._calibrated()

    # --- during the run -----------------------------------------------------------------------------------

    def columns(self, rounds: int) -> dict[str, Any]:
        """Return what a row says: epsilon so far, by adversary, with what belongs to it."""
        release, done = self._release, self._released
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
        spent = self._side_by_side(self._released)
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
        )

    @property
    def _released(self) -> int:
        """How many rounds the ledger has; `ValueError` where they are not of this account's mechanism."""
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
            tolerance = laws.TOLERANCE if rounds == self._rounds else laws.ROUGH
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


def _cohorts(experiment: Experiment, clients: int) -> Cohorts:
    """Return an experiment's rule for cohorts."""
    server = experiment.server
    return Cohorts(
        sampling=Sampling(server.sampling),
        clients=clients,
        cohort=server.cohort,
        max_cohort=max_cohort_of(server, clients),
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
