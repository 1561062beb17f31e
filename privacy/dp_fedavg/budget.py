"""`fedsim budget dp-fedavg`: a client's epsilon, by adversary, over rounds, noise and client rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from fedsim.privacy.accounting import pld
from fedsim.privacy.accounting.steps import KNOWN_COHORT, RELEASED_MODELS, SERVER, AdversaryCost
from fedsim.privacy.budget import (
    RELATIONS,
    NoiseBudget,
    Table,
    both,
    bounds_to_json,
    check_rounds,
    counted,
    rates_beside,
    shown,
)
from fedsim.privacy.dp_fedavg import accounting
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism
from fedsim.privacy.events import Relation, Sampling

WHO = (
    "\nServer: infinite. It is trusted, and has the sums before the noise, with secure aggregation too."
    "\nKnown cohort: sees each round's model and knows who took part."
    "\nReleased models: sees the models only; cohorts are secret."
)


class DpFedAvgBudget(NoiseBudget):
    """Plan client-level DP-FedAvg: a client's epsilon for each adversary, without running anything.

    Give either --noise-multiplier or --epsilon. The server is trusted: it has the sums before the noise. "Known
    cohort" sees each round's model and knows who took part; "released models" sees the models only, with secret
    cohorts. With adaptive clipping or released metrics, Z is that of all sums together.
    """

    noise_multiplier: Annotated[float | None, "Z"] = None
    """Standard deviation of the noise on the cohort's sum / the clip norm."""
    rounds: Annotated[int, "T"]
    """Rounds."""
    delta: Annotated[float, "D"]
    """Must be below 1 / clients."""
    client_rate: Annotated[float | None, "P"] = None
    """Expected cohort / clients; 1: all clients, always. With add-or-remove-one, the declared rate (--cohort may
    stand beside it)."""
    clients: Annotated[int | None, "N"] = None
    """Clients; with --cohort, instead of --client-rate."""
    cohort: Annotated[int | None, "M"] = None
    """Expected clients in a cohort."""
    sampling: Literal["poisson", "truncated-poisson", "fixed"] | None = None
    """How cohorts are drawn. Default: poisson, or truncated with --max-cohort."""
    max_cohort: Annotated[int | None, "B"] = None
    """A larger cohort is cut to a random subset of this size; needs --clients."""
    participations: Annotated[int | None, "R"] = None
    """Most rounds in which a client takes part. Default: no limit."""
    relation: Literal["zero-out", "add-or-remove-one"] = "zero-out"
    """Which data sets are neighbours. add-or-remove-one protects the number of clients: it needs a declared
    --client-rate, and poisson cohorts."""
    adversary: Literal["known-cohort", "released-models"] | None = None
    """Adversary that --epsilon holds against. Default: released-models; known-cohort with --participations."""
    mean_noise: Annotated[float | None, "S"] = None
    """With --epsilon: also give the cohort and population for which the noise on the mean update has a standard
    deviation of S clip norms."""
    population: Annotated[tuple[int, int] | None, "N M"] = None
    """Also give epsilon for a deployment of N clients, cohorts of M, and the same noise on the mean; needs --cohort."""
    columns: ClassVar[Sequence[str]] = ("known cohort (exact)", "(RDP)", "released models (PLD)", "(RDP)")
    only_with_epsilon: ClassVar[Mapping[str, str]] = {
        "adversary": "with noise given, all are shown",
        "mean_noise": "with noise given, there is no question",
    }

    def check(self) -> None:
        """Find the noise, if it isn't given. As `Budget` says."""
        super().check()
        check_rounds(self.rounds, self.participations, "participations")
        if self.mean_noise is not None and not (0 < self.mean_noise < math.inf and self.cohort is None):
            raise ValueError(
                f"--mean-noise {self.mean_noise}: must be above 0, and goes with --client-rate, not --cohort"
            )
        if self.population is not None and self.cohort is None:
            raise ValueError("--population: needs --clients and --cohort of the run that stands for it")
        self._check_rate()
        release = self._with(1.0 if self.noise_multiplier is None else self.noise_multiplier)
        self._answers(release, rounds=0)
        if (deployed := self._deployed(release)) is not None:
            self._answers(deployed, rounds=0)
        _ = self.noise
        if self.mean_noise is not None:
            self._needed(self.mean_noise)

    def _check_rate(self) -> None:
        """Refuse a rate that is missing, given twice, or derived from a protected number of clients."""
        if self._hides_clients:
            relation = f"--relation {self.relation}"
            if self.clients is not None:
                raise ValueError(
                    f"--clients {self.clients}: is what {relation} protects, so no rate may depend on it; allowed: "
                    "--client-rate"
                )
            if self.client_rate is None:
                raise ValueError(f"{relation}: needs a declared rate; allowed: --client-rate, or zero-out")
        elif self.cohort is not None:
            if self.client_rate is not None:
                raise ValueError(
                    f"--client-rate {self.client_rate}: can't stand beside --cohort; allowed: one of them"
                )
            if self.clients is None or not 1 <= self.cohort <= self.clients:
                raise ValueError(f"--cohort {self.cohort}: must be 1 to --clients, which is {self.clients}")

    @property
    def neighbours(self) -> str:
        """Which data sets are neighbours, in words."""
        return RELATIONS[Relation(self.relation)]

    @property
    def _hides_clients(self) -> bool:
        return Relation(self.relation) is Relation.ADD_OR_REMOVE_ONE

    @property
    def _against(self) -> str:
        return self.adversary or (RELEASED_MODELS if self.participations is None else KNOWN_COHORT)

    def _with(self, noise_multiplier: float) -> CohortMechanism:
        rate = 1.0 if self.client_rate is None else self.client_rate
        if self.cohort is not None and self.clients is not None:
            rate = self.cohort / self.clients
        scheme = "poisson" if self.max_cohort is None else "truncated-poisson"
        return CohortMechanism(
            noise_multiplier=noise_multiplier,
            rate=rate,
            sampling=Sampling(self.sampling or scheme),
            relation=Relation(self.relation),
            clients=self.clients,
            max_cohort=self.max_cohort,
            cohort=self.cohort if self._hides_clients else None,
        )

    @cached_property
    def _release(self) -> CohortMechanism:
        return self._with(self.noise)

    def _answers(
        self, release: CohortMechanism, tolerance: float = pld.TOLERANCE, rounds: int | None = None
    ) -> dict[str, AdversaryCost]:
        return accounting.side_by_side(
            release,
            self.rounds if rounds is None else rounds,
            self.delta,
            max_participations=self.participations,
            tolerance=tolerance,
        )

    def noise_for(self, epsilon: float) -> float:
        """Return the smallest noise multiplier for an epsilon. As `NoiseBudget` says."""
        return accounting.noise_for(
            epsilon,
            self._against,
            self._with(1.0),
            self.rounds,
            self.delta,
            max_participations=self.participations,
        )

    def _needed(self, mean_noise: float) -> tuple[int, int]:
        """Return the cohort and clients for the noise on the mean; raises `ValueError` if so many need a smaller delta."""
        cohort = math.ceil(self.noise / mean_noise)
        clients = math.ceil(cohort / self._release.rate)
        if self.delta >= 1 / clients:
            raise ValueError(
                f"delta = {self.delta}: must be below 1 / clients = 1 / {clients}, the number that this noise needs"
            )
        return cohort, clients

    def _deployed(self, release: CohortMechanism) -> CohortMechanism | None:
        """Return the mechanism of the deployment that the run represents, if there is one."""
        if self.population is None or self.cohort is None:
            return None
        return release.of_population(*self.population, self.cohort)

    def _with_coins(self) -> AdversaryCost | None:
        """Return the cost with Poisson cohorts if cohorts are of fixed size, else None."""
        if self._release.sampling is not Sampling.FIXED:
            return None
        return self._answers(replace(self._release, sampling=Sampling.POISSON))[RELEASED_MODELS]

    def to_json(self) -> dict[str, Any]:
        """Return epsilons (null: infinite, or no theorem: `why` tells) and inputs."""
        release, coins, deployed = self._release, self._with_coins(), self._deployed(self._release)
        inputs = {
            "noise-multiplier": self.noise,
            "rounds": self.rounds,
            "client-rate": release.rate,
            "sampling": release.sampling.value,
        } | self.options("clients", "cohort", "max_cohort", "participations", "delta")
        if coins is not None:
            inputs |= _to_json({"with-poisson-cohorts": coins})
        tree = self.tree(_to_json(self._answers(release)), inputs, adversary=self._against)
        if self.mean_noise is not None:
            needs = dict(zip(("cohort", "clients"), self._needed(self.mean_noise), strict=True))
            tree |= {"mean-noise": self.mean_noise, "needs": needs}
        if deployed is not None and self.population is not None:
            sizes = dict(zip(("clients", "cohort"), self.population, strict=True))
            noise = {"noise-multiplier": deployed.noise_multiplier}
            tree["population"] = sizes | noise | _to_json(self._answers(deployed))
        return tree

    def bounds(self, exact: bool) -> Sequence[float | None]:
        """Return this plan's row of a table. As `NoiseBudget` says."""
        answers = self._answers(self._release, pld.TOLERANCE if exact else pld.ROUGH)
        return both(answers[KNOWN_COHORT].epsilon) + both(answers[RELEASED_MODELS].epsilon)

    def words(self) -> dict[str, str]:
        """Return the inputs in words, by what varies in a table."""
        words = {
            "noise": f"noise multiplier {self.noise:.4g}",
            "rounds": counted(self.rounds, "round"),
            "client rate": f"client rate {self._release.rate:.4g}",
            "sampling": f"{self._release.sampling.value} cohorts",
        }
        if self.max_cohort is not None:
            words["sampling"] += f" of at most {self.max_cohort:,} of {self.clients:,}"
        if self.participations is not None:
            words["participations"] = f"at most {counted(self.participations, 'participation')}"
        return words | {"delta": f"delta {self.delta:g}"}

    def blocks(self) -> Iterator[str | Table]:
        """Yield the plan, and its epsilons over rounds, noise and client rates."""
        yield from self.head(f"*DP-FedAvg*, delta {self.delta:g}", self._against)
        if self.mean_noise is not None:
            cohort, clients = self._needed(self.mean_noise)
            yield (
                f"For noise of {self.mean_noise:g} clip norms on the mean: cohorts of *{cohort:,}* of *{clients:,}* "
                "clients."
            )
        if self.cohort is not None:
            yield f"Noise on the mean update: {self.noise / self.cohort:.4g} clip norms."
        yield self.over_counts("rounds", self.rounds)
        yield self.over_noise(f"Over noise: {self.said('noise')}")
        if self._release.sampling is Sampling.POISSON and self.participations is None:
            yield self._over_rates() if self.mean_noise is None else self._over_populations(self.mean_noise)
        yield from self._notes()

    def _over_rates(self) -> Table:
        own = self._release.rate
        plans = [
            (f"{rate:.4g}", self.varied(**({} if rate == own else {"client_rate": rate, "cohort": None})))
            for rate in rates_beside(own)
        ]
        return self.over(f"Over cohorts: {self.said('client rate')}", "client rate", plans)

    def _over_populations(self, mean_noise: float) -> Table:
        rows = []
        for rate in rates_beside(self._release.rate):
            plan = self.having(client_rate=rate)
            try:
                needed = [f"{count:,}" for count in plan._needed(mean_noise)]
            except ValueError:
                needed = ["unavailable", "delta is too large"]
            rows.append([f"{rate:.4g}", f"{plan.noise:.4g}", *needed])
        return Table(
            f"Cohorts and populations that do: {self.said('client rate', 'noise')}, {mean_noise:g} on the mean",
            ("client rate", "noise multiplier", "cohort", "clients"),
            rows,
        )

    def _notes(self) -> Iterator[str]:
        yield WHO
        for name, answer in self._answers(self._release).items():
            if answer.why and name != SERVER:
                known = "" if answer.epsilon is not None else ", unavailable"
                yield f"{name.capitalize().replace('-', ' ')}{known}: {answer.why}."
        coins = self._with_coins()
        if coins is not None and coins.epsilon is not None:
            yield f"Poisson cohorts would give {shown(coins.epsilon.pld)} (PLD) to released models."
        deployed = self._deployed(self._release)
        if deployed is not None and self.population is not None:
            epsilon = self._answers(deployed)[RELEASED_MODELS].epsilon
            yield (
                f"A deployment to {self.population[0]:,} clients with cohorts of {self.population[1]:,} and the same noise "
                f"on the mean (multiplier {deployed.noise_multiplier:.4g}), hypothetically: "
                f"{' (PLD), '.join(map(shown, both(epsilon)))} (RDP) to released models. The run's own clients have "
                "the tables' epsilons."
            )


def _to_json(answers: Mapping[str, AdversaryCost]) -> dict[str, Any]:
    return {
        name: {**bounds_to_json(answer.epsilon), "relation": answer.relation, "why": answer.why}
        for name, answer in answers.items()
    }
