"""What a run's privacy costs: the noise that its epsilon needs, before; what was spent, by its ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data import FederatedData
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.privacy import accounting
from fedsim.privacy.accounting import Adversary, Epsilon, KnownCohort, LocalSteps, ReleasedModels
from fedsim.privacy.dp_sgd.release import planned_event
from fedsim.privacy.events import Event, Noise, Relation, Unit
from fedsim.privacy.ledger import Release
from fedsim.privacy_sections import DpSgdSection
from fedsim.server.kept_ledger import KeptByClients

KNOWN_COHORT = "known-cohort"
RELEASED_MODELS = "released-models"
WHO = {
    KNOWN_COHORT: "the server, and whoever else sees a client's updates or when it takes part",
    RELEASED_MODELS: "whoever sees the global models alone, and not who takes part",
}
UNAVAILABLE = (
    "no theorem: cohorts must be drawn by secret coins (server.sampling = 'poisson'), without a budget"
)
RECORDS = {
    Relation.ZERO_OUT: "their number is public, for each client",
    Relation.ADD_OR_REMOVE_ONE: "their number is protected, and nothing that is said here is made of it",
}
QUANTILES = {"smallest": 0.0, "quarter": 0.25, "median": 0.5, "three-quarters": 0.75, "largest": 1.0}
NOISE = {
    Noise.SEEDED: "seeded: epsilon is the mechanism's, not this artefact's; whoever has the seed has the noise",
    Noise.SYSTEM: "of the operating system, added exactly on a grid; the manifest's arithmetic says what remains",
}


class Account(KeptByClients):
    """The account of example-level DP over a run.

    Protected is one record of one client. Under zero-out the numbers of records are public; under add-or-remove-one
    they are protected, and rate, steps and all that is said here are made of declared constants alone. Clients have
    disjoint records, so what is said is the largest of their epsilons, and not the sum.

    Attributes:
        noise: Where the noise comes from.
        noise_multiplier: What the clients add: given, or calibrated for the epsilon of the experiment.
        ledger: What was released so far.
    """

    def __init__(self, experiment: Experiment, dp_sgd: DpSgdSection, records: NDArray[np.int64]) -> None:
        """Make the account of clients with so many training records, `(clients,)`.

        Raises:
            Refused: delta is too large for so few records, or no noise reaches the epsilon.
        """
        super().__init__(experiment, dp_sgd.max_participations)
        self._experiment = experiment
        self._dp_sgd = dp_sgd
        self._records = records
        self._check_delta()
        self._sizes, self._counts = np.unique(records, return_counts=True)
        self._client_rate = experiment.server.cohort / len(records)
        self._worst_clients: dict[str, LocalSteps] = {}  # by adversary
        self._known: dict[frozenset[tuple[Release, int]], tuple[LocalSteps, Epsilon]] = {}  # the last answer
        self._by_participations: dict[int, tuple[LocalSteps, Epsilon]] = {}  # the last answer
        self.noise_multiplier = dp_sgd.noise_multiplier or self._calibrated()

    @classmethod
    def of(cls, experiment: Experiment, data: FederatedData) -> Account | None:
        """Return the account of an experiment; None where nothing is to be accounted for."""
        dp_sgd = experiment.privacy.dp_sgd
        return None if dp_sgd is None else cls(experiment, dp_sgd, data.training_sizes())

    # --- during the run -----------------------------------------------------------------------------------

    def for_clients(self) -> dict[str, Any]:
        """Return what clients have to know of it, for a message's config."""
        return {"noise-multiplier": self.noise_multiplier} | super().for_clients()

    def _check_delta(self) -> None:
        """Raise `Refused` for a delta that is too large for so few records, or so few as the constants tell of."""
        total, of = float(self._records.sum()), "all records"
        if self._hides_records and self._dp_sgd.rate is not None:
            total = len(self._records) * self._experiment.client.batch_size / self._dp_sgd.rate
            of = "clients x client.batch-size / privacy.dp-sgd.rate"
        if self._dp_sgd.delta >= 1 / total:
            raise Refused(
                f"privacy.dp-sgd.delta = {self._dp_sgd.delta}: must be below 1 / ({of}) = 1 / {total:.10g}: "
                "a mechanism that publishes one record at random would pass"
            )

    @property
    def _hides_records(self) -> bool:
        """Whether the numbers of records are protected."""
        return self._dp_sgd.neighbours is Relation.ADD_OR_REMOVE_ONE

    def _releases(self, client: int) -> int:
        return self._dp_sgd.batches(self._experiment.client, int(self._records[client])).steps

    def _planned(self, round_: int, client: int) -> Event:
        dp_sgd = self._dp_sgd
        batches = dp_sgd.batches(self._experiment.client, int(self._records[client]))
        event = planned_event(batches, self.noise_multiplier, dp_sgd.clip, dp_sgd.neighbours, self.noise)
        return replace(event, round=round_, client=client)

    def columns(self, rounds: int) -> dict[str, Any]:
        """Return what a row says after so many rounds: epsilon so far, by adversary, with what belongs to it."""
        spent = self._spent(rounds)
        worst, _ = spent[KNOWN_COHORT]
        return {f"epsilon-{name}": epsilon.best for name, (_, epsilon) in spent.items()} | {
            "noise-multiplier": worst.noise_multiplier,
            "sampling-rate": worst.rate,
            "dp-steps": worst.steps if len(self.ledger) or self.noise is Noise.SYSTEM else 0,
            "delta": self._dp_sgd.delta,
            "unit": Unit.EXAMPLE.value,
            "relation": self._dp_sgd.relation,
        }

    # --- what it costs ------------------------------------------------------------------------------------

    def report(self, rounds: int) -> dict[str, Any]:
        """Return what the manifest says, by adversary: epsilon of the whole run, and spent after some rounds."""
        spent = self._spent(rounds)
        report: dict[str, Any] = {}
        for name, adversary in self._adversaries(self._experiment.rounds).items():
            worst = self._worst(name)
            epsilon = adversary.epsilon(worst)
            report[name] = {
                "who": WHO[name],
                "epsilon": epsilon.best,
                "pld": epsilon.pld,
                "rdp": epsilon.rdp,
                "spent": spent[name][1].best,
                **self._terms(worst),
                **{key.replace("_", "-"): value for key, value in vars(adversary).items()},
                "by-client": self._spread(adversary),
            }
        report.setdefault(RELEASED_MODELS, {"who": WHO[RELEASED_MODELS], "unavailable": UNAVAILABLE})
        return report

    def _adversaries(self, rounds: int) -> dict[str, Adversary]:
        """Return those against whom there is an epsilon, after so many rounds, by name."""
        dp_sgd, delta = self._dp_sgd, self._dp_sgd.delta
        most = min(dp_sgd.max_participations or rounds, rounds)
        adversaries: dict[str, Adversary] = {KNOWN_COHORT: KnownCohort(most, delta)}
        if self._experiment.server.sampling == "poisson" and dp_sgd.max_participations is None:
            adversaries[RELEASED_MODELS] = ReleasedModels(self._client_rate, rounds, delta)
        return adversaries

    def _worst(self, adversary: str) -> LocalSteps:
        """Return what the client releases in a round that loses most over the whole run."""
        whole = self._adversaries(self._experiment.rounds)[adversary]
        if adversary not in self._worst_clients:
            self._worst_clients[adversary], _ = accounting.worst(self._shapes(self.noise_multiplier), whole)
        return self._worst_clients[adversary]

    def _spent(self, rounds: int) -> dict[str, tuple[LocalSteps, Epsilon]]:
        """Return what has been spent after some rounds, by adversary, with the client's release that it is of.

        For who knows the cohorts it is the most that any client has spent by the ledger: an odometer, as who
        takes part does not depend on the data. For who doesn't, each client may have been in every round, and
        it is that of the client that loses most over the whole run. With the operating system's noise so it is for
        both: what this says is public, and how often somebody was drawn is not.
        """
        adversaries = self._adversaries(rounds)
        del adversaries[KNOWN_COHORT]
        known = self._spent_as_planned(rounds) if self.noise is Noise.SYSTEM else self._spent_by_ledger()
        spent = {name: (self._worst(name), a.epsilon(self._worst(name))) for name, a in adversaries.items()}
        return {KNOWN_COHORT: known, **spent}

    def _spent_as_planned(self, rounds: int) -> tuple[LocalSteps, Epsilon]:
        """Return the most that a client can have spent that was in every round, or as often as it may."""
        most = min(self._dp_sgd.max_participations or rounds, rounds)
        if most not in self._by_participations:
            known = KnownCohort(most, self._dp_sgd.delta)
            worst, epsilon = accounting.worst(self._shapes(self.noise_multiplier), known)
            self._by_participations = {most: (replace(worst, steps=worst.steps * max(most, 1)), epsilon)}
        return self._by_participations[most]

    def _spent_by_ledger(self) -> tuple[LocalSteps, Epsilon]:
        """Return the most that a client has spent; computed only if someone has spent more than all before."""
        released = frozenset(_not_outdone(self.ledger.spent()))
        if not released:
            return self._worst(KNOWN_COHORT), Epsilon(0.0, 0.0)
        if released not in self._known:
            self._known = {
                released: accounting.worst(map(_as_one, released), KnownCohort(1, self._dp_sgd.delta))
            }
        return self._known[released]

    def _calibrated(self) -> float:
        """Return the least noise that keeps the experiment's epsilon for every client, at the end of the run.

        Raises:
            Refused: There is none.
        """
        epsilon, name = self._dp_sgd.epsilon, self._dp_sgd.adversary
        if epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        adversary = self._adversaries(self._experiment.rounds)[name]

        def epsilon_at(noise_multiplier: float) -> Epsilon:
            return accounting.worst(self._shapes(noise_multiplier), adversary)[1]

        try:
            return accounting.smallest_noise(epsilon_at, epsilon)
        except ValueError as error:
            raise Refused(f"privacy.dp-sgd.epsilon = {epsilon}: {error}") from None

    def _shapes(self, noise_multiplier: float) -> list[LocalSteps]:
        """Return what a client releases in a round, for each number of records that clients have.

        Where those are protected it is the same for all, of declared constants.
        """
        shapes = []
        for records in self._sizes.tolist():
            batches = self._dp_sgd.batches(self._experiment.client, records)
            shapes.append(
                LocalSteps(
                    noise_multiplier=noise_multiplier,
                    rate=batches.rate,
                    steps=batches.steps,
                    max_batch=batches.max_batch,
                    records=None if self._hides_records else records,
                )
            )
        return shapes[:1] if self._hides_records else shapes

    def _spread(self, adversary: Adversary) -> dict[str, float]:
        """Return how epsilon is spread over the clients, by quantile."""
        shapes = self._shapes(self.noise_multiplier)
        counts = [1] if self._hides_records else self._counts
        clients = [shape for shape, count in zip(shapes, counts, strict=True) for _ in range(count)]
        epsilons = accounting.spread(clients, adversary, list(QUANTILES.values()))
        return dict(zip(QUANTILES, epsilons, strict=True))

    def _terms(self, worst: LocalSteps) -> dict[str, Any]:
        """Return what an epsilon is never said without."""
        return {
            "unit": Unit.EXAMPLE.value,
            "relation": self._dp_sgd.relation,
            "records": RECORDS[self._dp_sgd.neighbours],
            "noise": NOISE[self.noise],
            "noise-multiplier": worst.noise_multiplier,
            "clip": self._dp_sgd.clip,
            "worst-client": {
                "records": worst.records,
                "sampling-rate": worst.rate,
                "steps-in-a-round": worst.steps,
                "max-batch": worst.max_batch,
            },
        }


def _not_outdone(spent: Iterable[tuple[Release, int]]) -> list[tuple[Release, int]]:
    """Return the releases than which no other has as large a rate, as many steps and as little noise.

    The others cost no more. Where batches are cut, more records count too, so all of those are kept.
    """
    kept: list[tuple[Release, int]] = []
    for release, steps in sorted(spent, key=lambda one: (one[0].rate, one[1]), reverse=True):
        rivals = [
            more
            for other, more in kept
            if other.max_batch is None and other.noise_multiplier <= release.noise_multiplier
        ]
        if release.max_batch is not None or steps > max(rivals, default=0):
            kept.append((release, steps))
    return kept


def _as_one(spent: tuple[Release, int]) -> LocalSteps:
    """Return all the steps of a client as those of one participation."""
    release, steps = spent
    return LocalSteps(**release._asdict(), steps=steps)
