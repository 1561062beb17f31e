"""DP-SGD's plan for a training: its noise, and its cost for each adversary that a theorem covers."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from fedsim.privacy import accounting
from fedsim.privacy.accounting import Epsilon, KnownCohort, LocalSteps, ReleasedModels
from fedsim.privacy.cohorts.rule import Cohorts, roomy_cohort, share_cut
from fedsim.privacy.dp_sgd.release import Batches, DpSgdEvent, DpSgdTerms
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Ledger, Noise, Relation, Sampling, Unit
from fedsim.privacy.plan import MUCH_CUT, NOISE, ReleasedByClients
from fedsim.privacy.training import LocalWork, Training, Unfit

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

Adversary = KnownCohort | ReleasedModels


def adversaries(
    rounds: int, delta: float, *, client_rate: float | None, max_participations: int | None
) -> dict[str, Adversary]:
    """Return the adversaries with an epsilon, by name.

    Args:
        rounds: 0 or more.
        delta: Above 0 and below 1.
        client_rate: Rate of Poisson cohorts, above 0 and at most 1; None: another sampling.
        max_participations: Most participations of a client; None: no limit.

    Raises:
        ValueError: A value is out of its range.
    """
    most = rounds if max_participations is None else min(max_participations, rounds)
    found: dict[str, Adversary] = {KNOWN_COHORT: KnownCohort(most, delta)}
    if client_rate is not None and max_participations is None:
        found[RELEASED_MODELS] = ReleasedModels(client_rate, rounds, delta)
    return found


def local_steps(
    settings: DpSgdSettings, work: LocalWork, records: int, noise_multiplier: float
) -> LocalSteps:
    """Return what a client with this number of records, unless they are protected, releases in a round."""
    batches = settings.batches(work, records)
    return LocalSteps(
        noise_multiplier=noise_multiplier,
        rate=batches.rate,
        steps=batches.steps,
        max_batch=batches.max_batch,
        records=records if settings.neighbours is Relation.ZERO_OUT else None,
    )


class DpSgdPlan(ReleasedByClients):
    """DP-SGD for a training.

    Unit: one record of one client. Under zero-out the numbers of records are public; under add-or-remove-one they are
    protected, and rate, steps and reports follow from declared constants only. Clients have disjoint records, so
    reports give the largest of their epsilons, not the sum.

    Raises:
        ValueError: delta is too large for so few records, or no noise reaches the epsilon.
    """

    def __init__(self, settings: DpSgdSettings, training: Training) -> None:
        rule = training.rule
        self._settings = settings
        self._training = training
        self._hides_records = settings.neighbours is Relation.ADD_OR_REMOVE_ONE
        self._check_delta()
        self._sizes, self._counts = np.unique(training.records, return_counts=True)
        self._client_rate = rule.cohort / training.clients
        self._worst = functools.lru_cache(maxsize=8)(accounting.worst)  # rounds ask the same
        self.cohorts = Cohorts.of(rule.sampling, rule.cohort, training.clients, most=rule.max_cohort)
        self.most = settings.max_participations
        self.participations = min(self.most or training.rounds, training.rounds)
        self.noise_multiplier = settings.noise_multiplier or self._calibrated()
        self._clients = self._shapes(self.noise_multiplier)

    def instructions(self) -> dict[str, Any]:
        """Return the noise multiplier calibrated for all clients."""
        return {"noise-multiplier": self.noise_multiplier}

    def cautions(self) -> list[str]:
        """Return what the run is told, also of batches that `max-batch` cuts. As `Plan` says."""
        told = super().cautions()
        if (most := self._settings.max_batch) is None:
            return told
        sizes = self._sizes.tolist()
        batches = {records: self._settings.batches(self._training.work, records) for records in sizes}
        cut = {records: share_cut(most, records, batch.rate) for records, batch in batches.items()}
        worst = max(sizes, key=cut.__getitem__)
        if cut[worst] > MUCH_CUT:
            roomy = max(roomy_cohort(records * batch.rate, records) for records, batch in batches.items())
            told.append(
                f"privacy.dp-sgd.max-batch = {most}: cuts {100 * cut[worst]:.2g} % of the examples out of the batches of "
                f"a client with {worst} examples; try {roomy}"
            )
        return told

    def _check_delta(self) -> None:
        """Refuse a delta too large for the number of records, or for that implied by the constants."""
        total, of = float(self._training.records.sum()), "all records"
        if self._hides_records and self._settings.rate is not None:
            total = self._training.clients * self._training.work.batch_size / self._settings.rate
            of = "clients x client.batch-size / privacy.dp-sgd.rate"
        if (delta := self._settings.delta) >= 1 / total:
            why = "a mechanism that publishes one record at random would pass"
            raise Unfit("delta", delta, f"must be below 1 / ({of}) = 1 / {total:.10g}: {why}")

    def _batches(self, client: int) -> Batches:
        return self._settings.batches(self._training.work, int(self._training.records[client]))

    def releases(self, client: int) -> int:
        """Return a client's number of steps in a round."""
        return self._batches(client).steps

    def planned(self, round_: int, client: int) -> DpSgdEvent:
        """Return the event of all steps of a client's round. As `ReleasedByClients` says."""
        return self._settings.planned_event(
            self._batches(client), self.noise_multiplier, self._training.noise, round_=round_, client=client
        )

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the columns of a round's row. As `Plan` says."""
        spent = self._spent(ledger, rounds)
        worst, _ = spent[KNOWN_COHORT]
        return {f"epsilon-{name}": epsilon.best for name, (_, epsilon) in spent.items()} | {
            "noise-multiplier": worst.noise_multiplier,
            "sampling-rate": worst.rate,
            "dp-steps": worst.steps if len(ledger) or self._training.noise is Noise.SYSTEM else 0,
            "delta": self._settings.delta,
            "unit": Unit.EXAMPLE.value,
            "relation": self._settings.relation,
        }

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the manifest's report. As `Plan` says."""
        spent = self._spent(ledger, rounds)
        report: dict[str, Any] = {}
        for name, adversary in self._adversaries(self._training.rounds).items():
            worst, epsilon = self._worst(self._clients, adversary)
            report[name] = {
                "who": WHO[name],
                "epsilon": epsilon.best,
                "pld": epsilon.pld,
                "rdp": epsilon.rdp,
                "spent": spent[name][1].best,
                "unit": Unit.EXAMPLE.value,
                "relation": self._settings.relation,
                "records": RECORDS[self._settings.neighbours],
                "noise": NOISE[self._training.noise],
                "noise-multiplier": worst.noise_multiplier,
                "clip": self._settings.clip,
                "worst-client": {
                    "records": worst.records,
                    "sampling-rate": worst.rate,
                    "steps-in-a-round": worst.steps,
                    "max-batch": worst.max_batch,
                },
                **{key.replace("_", "-"): value for key, value in vars(adversary).items()},
                "by-client": self._spread(adversary),
            }
        report.setdefault(RELEASED_MODELS, {"who": WHO[RELEASED_MODELS], "unavailable": UNAVAILABLE})
        return report

    def _adversaries(self, rounds: int) -> dict[str, Adversary]:
        """Return the adversaries with an epsilon after a number of rounds, by name."""
        return adversaries(
            rounds,
            self._settings.delta,
            client_rate=self._client_rate if self.cohorts.sampling is Sampling.POISSON else None,
            max_participations=self.most,
        )

    def _spent(self, ledger: Ledger, rounds: int) -> dict[str, tuple[LocalSteps, Epsilon]]:
        """Return the epsilon spent after some rounds, by adversary, with the release of the client that it belongs to.

        Against known cohorts it is the largest that any client has spent by the ledger: an odometer, since
        participation does not depend on the data. Against released models each client may have been in every round,
        and it is that of the worst client over the whole run. With the operating system's noise this holds for both,
        since the result is public and participations are not.
        """
        spent = {KNOWN_COHORT: self._spent_in_known_cohorts(ledger, rounds)}
        if released := self._adversaries(rounds).get(RELEASED_MODELS):
            whole = self._adversaries(self._training.rounds)[RELEASED_MODELS]
            worst, _ = self._worst(self._clients, whole)
            spent[RELEASED_MODELS] = worst, released.epsilon(worst)
        return spent

    def _spent_in_known_cohorts(self, ledger: Ledger, rounds: int) -> tuple[LocalSteps, Epsilon]:
        if self._training.noise is Noise.SYSTEM:
            most = min(self.most or rounds, rounds)
            worst, epsilon = self._worst(self._clients, KnownCohort(most, self._settings.delta))
            return replace(worst, steps=worst.steps * max(most, 1)), epsilon
        if released := _not_outdone(ledger):
            return self._worst(released, KnownCohort(1, self._settings.delta))
        worst, _ = self._worst(self._clients, self._adversaries(self._training.rounds)[KNOWN_COHORT])
        return worst, Epsilon(0.0, 0.0)

    def _calibrated(self) -> float:
        """Return the smallest noise that keeps the experiment's epsilon for every client at the end of the run."""
        epsilon = self._settings.epsilon
        if epsilon is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        adversary = self._adversaries(self._training.rounds)[self._settings.adversary]
        try:
            return accounting.smallest_noise(
                lambda noise: accounting.worst(self._shapes(noise), adversary)[1], epsilon
            )
        except ValueError as error:
            raise Unfit("epsilon", epsilon, str(error)) from None

    def _shapes(self, noise_multiplier: float) -> tuple[LocalSteps, ...]:
        """Return a client's steps in a round, for each number of records that clients have.

        If those are protected, they follow from declared constants and are the same for all.
        """
        sizes = self._sizes[:1] if self._hides_records else self._sizes
        work = self._training.work
        return tuple(local_steps(self._settings, work, n, noise_multiplier) for n in sizes.tolist())

    def _spread(self, adversary: Adversary) -> dict[str, float]:
        """Return quantiles of epsilon over the clients."""
        counts = [1] if self._hides_records else self._counts
        clients = [shape for shape, count in zip(self._clients, counts, strict=True) for _ in range(count)]
        epsilons = accounting.spread(clients, adversary, list(QUANTILES.values()))
        return dict(zip(QUANTILES, epsilons, strict=True))


def _not_outdone(ledger: Ledger) -> frozenset[LocalSteps]:
    """Return the clients' releases, each as one participation, that no other dominates in rate, steps and noise.

    Dominated ones cost no more. With truncated batches more records count too, so all of those are kept.
    """
    spent = []
    for terms, steps in ledger.spent_by_clients():
        if not isinstance(terms, DpSgdTerms):
            raise ValueError("the ledger's releases are of another mechanism")
        spent.append(LocalSteps(**terms._asdict(), steps=steps))
    kept: list[LocalSteps] = []
    for release in sorted(spent, key=lambda one: (one.rate, one.steps), reverse=True):
        rivals = [
            other.steps
            for other in kept
            if other.max_batch is None and other.noise_multiplier <= release.noise_multiplier
        ]
        if release.max_batch is not None or release.steps > max(rivals, default=0):
            kept.append(release)
    return frozenset(kept)
