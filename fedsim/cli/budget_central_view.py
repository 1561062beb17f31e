"""A plan of DP-FedAvg: its epsilons as JSON and as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from rich.console import Console

from fedsim.cli.budget_tables import RELATIONS, UNIT, both, say_noise, scaled, table
from fedsim.cli.budget_view import FACTORS, counted, plain, shown, up_to
from fedsim.errors import Refused
from fedsim.privacy.accounting import pld
from fedsim.privacy.dp_fedavg import accounting as central
from fedsim.privacy.dp_fedavg.accounting import KNOWN_COHORT, RELEASED_MODELS, SERVER, Answer, CohortSum
from fedsim.privacy.events import Relation, Sampling

WHO = (
    "\nServer: infinite. It is trusted, and has the sums before the noise, with secure aggregation too."
    "\nKnown cohort: who sees each round's model and knows who took part."
    "\nReleased models: who sees the models alone, cohorts being secret."
)


@dataclass(frozen=True, kw_only=True)
class CentralPlan:
    """A plan of DP-FedAvg.

    Attributes:
        release: Of a round.
        rounds: 1 or more.
        delta: Above 0 and below 1.
        cohort: Expected; None: the client rate alone is known.
        max_participations: None: as the coins say.
        target: The epsilon that the noise was found for, and the adversary; None if noise was given.
        mean_noise: Standard deviation that the noise on the mean may have, in clip norms; None: that isn't asked.
        population: Clients and cohort of a deployment that the plan stands for; None: of none.
    """

    release: CohortSum
    rounds: int
    delta: float
    cohort: int | None
    max_participations: int | None
    target: tuple[float, str] | None
    mean_noise: float | None
    population: tuple[int, int] | None

    @classmethod
    def of(
        cls,
        *,
        noise_multiplier: float | None,
        epsilon: float | None,
        adversary: str | None,
        rounds: int,
        delta: float,
        client_rate: float | None,
        clients: int | None,
        cohort: int | None,
        sampling: str | None,
        max_cohort: int | None,
        participations: int | None,
        relation: str,
        mean_noise: float | None,
        population: tuple[int, int] | None,
    ) -> Self:
        """Return a plan, with the smallest noise for the epsilon if there is one.

        Raises:
            Refused: A value is out of its range, or there is no noise, or no theorem, for the epsilon.
        """
        if rounds < 1:
            raise Refused(f"--rounds {rounds}: must be 1 or more")
        if participations is not None and not 1 <= participations <= rounds:
            raise Refused(f"--participations {participations}: must be 1 to --rounds {rounds}")
        if mean_noise is not None and not (0 < mean_noise < math.inf and cohort is None):
            raise Refused(
                f"--mean-noise {mean_noise}: must be above 0, and goes with --client-rate, not --cohort"
            )
        if population is not None and cohort is None:
            raise Refused("--population: needs --clients and --cohort of the run that stands for it")
        hidden = Relation(relation) is Relation.ADD_OR_REMOVE_ONE
        if hidden:
            _check_declared(client_rate, clients)
        scheme = sampling or ("poisson" if max_cohort is None else "truncated-poisson")
        known = KNOWN_COHORT if participations is not None else RELEASED_MODELS
        try:
            plan = cls(
                release=CohortSum(
                    noise_multiplier=1.0 if noise_multiplier is None else noise_multiplier,
                    rate=_rate(client_rate, clients, None if hidden else cohort),
                    sampling=Sampling(scheme),
                    relation=Relation(relation),
                    clients=clients,
                    max_cohort=max_cohort,
                    cohort=cohort if hidden else None,
                ),
                rounds=rounds,
                delta=delta,
                cohort=cohort,
                max_participations=participations,
                target=None if epsilon is None else (epsilon, adversary or known),
                mean_noise=mean_noise,
                population=population,
            )
            plan._check_all()
            return plan if plan.target is None else plan.with_noise(plan._calibrated())
        except ValueError as error:
            raise Refused(str(error)) from None

    def _check_all(self) -> None:
        """Raise `ValueError` where a number is out of its range, before anything takes long."""
        replace(self, rounds=0).answers()
        if self.population is not None:
            replace(self._of_population(), rounds=0).answers()

    def _calibrated(self) -> float:
        if self.target is None:
            raise RuntimeError("unreachable: there is no epsilon to calibrate for")
        epsilon, adversary = self.target
        return central.noise_for(
            epsilon,
            adversary,
            self.release,
            self.rounds,
            self.delta,
            max_participations=self.max_participations,
        )

    def with_noise(self, noise_multiplier: float) -> Self:
        """Return the plan with another noise."""
        return replace(self, release=replace(self.release, noise_multiplier=noise_multiplier))

    def with_rate(self, rate: float) -> Self:
        """Return the plan with another client rate, of whatever cohort."""
        return replace(self, release=replace(self.release, rate=rate, cohort=None))

    def answers(self, tolerance: float = pld.TOLERANCE) -> dict[str, Answer]:
        """Return what each adversary learns."""
        return central.side_by_side(
            self.release,
            self.rounds,
            self.delta,
            max_participations=self.max_participations,
            tolerance=tolerance,
        )

    def needed(self) -> tuple[int, int]:
        """Return the cohort, and the clients, that the noise takes to be as small on the mean as asked.

        Raises:
            Refused: That many clients need a smaller delta.
        """
        if self.mean_noise is None:
            raise RuntimeError("unreachable: no noise on the mean was asked for")
        cohort = math.ceil(self.release.noise_multiplier / self.mean_noise)
        clients = math.ceil(cohort / self.release.rate)
        if self.delta >= 1 / clients:
            raise Refused(
                f"delta = {self.delta}: must be below 1 / clients = 1 / {clients}, which is what it takes"
            )
        return cohort, clients

    def _of_population(self) -> Self:
        """Return the plan of the deployment that this one stands for."""
        if self.population is None or self.cohort is None:
            raise RuntimeError("unreachable: there is no population")
        clients, cohort = self.population
        release = self.release.of_population(clients, cohort, self.cohort)
        return replace(self, release=release, cohort=cohort, population=None, target=None)

    def with_coins(self) -> Answer | None:
        """Return what Poisson cohorts would cost, where they are of fixed size."""
        if self.release.sampling is not Sampling.FIXED:
            return None
        release = replace(self.release, sampling=Sampling.POISSON)
        return replace(self, release=release).answers()[RELEASED_MODELS]

    # --- for machines -------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Return epsilons (null: infinite, or no theorem: `why` tells) and inputs."""
        release = self.release
        tree: dict[str, Any] = {name: _answer(answer) for name, answer in self.answers().items()}
        tree |= {
            "unit": UNIT,
            "neighbouring-relation": RELATIONS[release.relation],
            "noise-multiplier": release.noise_multiplier,
            "rounds": self.rounds,
            "client-rate": release.rate,
            "sampling": release.sampling.value,
            "clients": release.clients,
            "cohort": self.cohort,
            "max-cohort": release.max_cohort,
            "participations": self.max_participations,
            "delta": self.delta,
        }
        coins = self.with_coins()
        if coins is not None:
            tree["with-poisson-cohorts"] = _answer(coins)
        if self.target is not None:
            tree |= {"epsilon": self.target[0], "adversary": self.target[1]}
        if self.mean_noise is not None:
            tree |= {
                "mean-noise": self.mean_noise,
                "needs": dict(zip(("cohort", "clients"), self.needed(), strict=True)),
            }
        if self.population is not None:
            of_population = self._of_population()
            tree["population"] = {
                "clients": self.population[0],
                "cohort": self.population[1],
                "noise-multiplier": of_population.release.noise_multiplier,
                **{name: _answer(answer) for name, answer in of_population.answers().items()},
            }
        return tree

    # --- for people ---------------------------------------------------------------------------------------

    def show(self, console: Console) -> None:
        """Print what is planned, and its epsilons over rounds, noise and client rates."""
        console.print(f"[bold]DP-FedAvg[/bold], delta {self.delta:g}")
        console.print(f"Protects {UNIT}; neighbours: {RELATIONS[self.release.relation]}.")
        if self.target is not None:
            say_noise(console, *self.target, self.release.noise_multiplier)
        if self.mean_noise is not None:
            cohort, clients = self.needed()
            console.print(
                f"For noise of {self.mean_noise:g} clip norms on the mean: cohorts of [bold]{cohort:,}[/bold] of "
                f"[bold]{clients:,}[/bold] clients."
            )
        if self.cohort is not None:
            on_mean = self.release.noise_multiplier / self.cohort
            console.print(f"Noise on the mean update: {on_mean:.4g} clip norms.")
        counts = up_to(self.rounds)
        self._show(
            console,
            f"Over rounds: {self._said('rounds')}",
            "rounds",
            [(f"{count:,}", replace(self, rounds=count)) for count in counts],
        )
        noises = [self.with_noise(scaled(self.release.noise_multiplier, factor)) for factor in FACTORS]
        self._show(
            console,
            f"Over noise: {self._said('noise')}",
            "noise multiplier",
            [(f"{plan.release.noise_multiplier:.4g}", plan) for plan in noises],
        )
        if self.release.sampling is Sampling.POISSON and self.max_participations is None:
            self._show_rates(console)
        self._explain(console)

    def _show_rates(self, console: Console) -> None:
        factors = (0.1, 0.3, 1, 3)
        rates = sorted(
            {
                min(float(f"{self.release.rate * f:.3g}") if f != 1 else self.release.rate, 1.0)
                for f in factors
            }
        )
        if self.mean_noise is None:
            self._show(
                console,
                f"Over cohorts: {self._said('client rate')}",
                "client rate",
                [(f"{rate:.4g}", self.with_rate(rate)) for rate in rates],
            )
            return
        rows = []
        for rate in rates:
            plan = self.with_rate(rate)
            plan = plan.with_noise(plan._calibrated())
            rows.append((f"{rate:.4g}", f"{plan.release.noise_multiplier:.4g}", *plan._needed_said()))
        title = f"Cohorts and populations that do: {self._said('client rate', 'noise')}, {self.mean_noise:g} on the mean"
        table(console, title, ("client rate", "noise multiplier", "cohort", "clients"), rows)

    def _needed_said(self) -> tuple[str, str]:
        try:
            cohort, clients = self.needed()
        except Refused:
            return "unavailable", "delta is too large"
        return f"{cohort:,}", f"{clients:,}"

    def _show(
        self, console: Console, title: str, varies: str, plans: Sequence[tuple[str, CentralPlan]]
    ) -> None:
        rows = []
        for name, plan in plans:
            answers = plan.answers(pld.TOLERANCE if plan == self else pld.ROUGH)
            known, released = answers[KNOWN_COHORT].epsilon, answers[RELEASED_MODELS].epsilon
            rows.append((name, *(shown(value) for epsilon in (known, released) for value in both(epsilon))))
        columns = (varies, "known cohort (exact)", "(RDP)", "released models (PLD)", "(RDP)")
        table(console, title, columns, rows)

    def _explain(self, console: Console) -> None:
        console.print(WHO)
        for name, answer in self.answers().items():
            if answer.why and name != SERVER:
                known = "" if answer.epsilon is not None else ", unavailable"
                console.print(f"{name.capitalize().replace('-', ' ')}{known}: {answer.why}.")
        coins = self.with_coins()
        if coins is not None and coins.epsilon is not None:
            console.print(f"Poisson cohorts would give {shown(coins.epsilon.pld)} (PLD) to released models.")
        if self.population is not None:
            of_population = self._of_population()
            epsilon = of_population.answers()[RELEASED_MODELS].epsilon
            console.print(
                f"A deployment to {self.population[0]:,} clients with cohorts of {self.population[1]:,} and the same noise on the "
                f"mean (multiplier {of_population.release.noise_multiplier:.4g}), hypothetically: "
                f"{' (PLD), '.join(map(shown, both(epsilon)))} (RDP) to released models. The run's own clients have "
                "the tables' epsilons."
            )

    def _said(self, *leaving_out: str) -> str:
        """Return the inputs in words, but for those that vary."""
        release = self.release
        said = {
            "noise": f"noise multiplier {release.noise_multiplier:.4g}",
            "rounds": counted(self.rounds, "round"),
            "client rate": f"client rate {release.rate:.4g}",
            "sampling": f"{release.sampling.value} cohorts",
        }
        if release.max_cohort is not None:
            said["sampling"] += f" of at most {release.max_cohort:,} of {release.clients:,}"
        if self.max_participations is not None:
            said["participations"] = f"at most {counted(self.max_participations, 'participation')}"
        said["delta"] = f"delta {self.delta:g}"
        return ", ".join(words for name, words in said.items() if name not in leaving_out)


def _check_declared(client_rate: float | None, clients: int | None) -> None:
    """Raise `Refused` where the number of clients is protected, and the client rate is made of it, or not declared."""
    relation = f"--relation {Relation.ADD_OR_REMOVE_ONE}"
    if clients is not None:
        raise Refused(
            f"--clients {clients}: is what {relation} protects, and no rate may be made of it; allowed: --client-rate"
        )
    if client_rate is None:
        raise Refused(f"{relation}: needs a rate that is declared; allowed: --client-rate, or zero-out")


def _rate(client_rate: float | None, clients: int | None, cohort: int | None) -> float:
    """Return the client rate; raises `Refused` where it isn't said, or said twice."""
    if cohort is None:
        return 1.0 if client_rate is None else client_rate
    if client_rate is not None:
        raise Refused(f"--client-rate {client_rate}: can't stand beside --cohort; allowed: one of them")
    if clients is None or not 1 <= cohort <= clients:
        raise Refused(f"--cohort {cohort}: must be 1 to --clients, which is {clients}")
    return cohort / clients


def _answer(answer: Answer) -> dict[str, Any]:
    bounds = plain(answer.epsilon) or {"pld": None, "rdp": None}
    return {
        **bounds,
        "relation": None if answer.relation is None else answer.relation.value,
        "why": answer.why,
    }
