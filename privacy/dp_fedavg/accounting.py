"""Accounting of central client-level privacy, for each adversary, by what the cohort rule hides from it.

Unit: a client. Each round releases a noised sum of updates, each clipped to norm C, over a public number. Noise:
ideal real Gaussians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from fedsim.privacy.accounting import pld, renyi
from fedsim.privacy.accounting.adversaries import epsilon_of_gaussians
from fedsim.privacy.accounting.calibration import smallest_noise
from fedsim.privacy.accounting.steps import (
    KNOWN_COHORT,
    RELEASED_MODELS,
    SERVER,
    AdversaryCost,
    Epsilon,
    NoTheorem,
    check_delta,
)
from fedsim.privacy.dp_fedavg.event import CohortTerms
from fedsim.privacy.events import Relation, Sampling
from fedsim.privacy.ranges import check_count, check_positive, check_rate

ADVERSARIES = (SERVER, KNOWN_COHORT, RELEASED_MODELS)


@dataclass(frozen=True, kw_only=True)
class CohortMechanism:
    """What one round releases: a noised sum over a cohort.

    Attributes:
        noise_multiplier: Standard deviation of the noise on the sum, over the sensitivity to one client, C; of
            several sums over the same cohort, that of all together (`joint_noise_multiplier`: adaptive clipping's
            z). Above 0.
        rate: Probability that a client is drawn for a round open to it; above 0 and at most 1.
        relation: Zero-out, or add-or-remove-one, where `rate` must be a constant of its own (`_check_constants`).
        clients: The population; needed if `sampling` is truncated or fixed; None if it is protected.
        max_cohort: Most clients in a cohort, if `sampling` is truncated.
        separation: A client may be in one of this many rounds, 1 or more; above 1 if `sampling` is b-min-sep.
        cohort: Expected clients in a cohort; without `clients`, `cohort / rate` replaces it in the check of delta.

    Raises:
        ValueError: A value is out of its range, missing, or differs between neighbouring data sets.
    """

    noise_multiplier: float
    rate: float
    sampling: Sampling = Sampling.POISSON
    relation: Relation = Relation.ZERO_OUT
    clients: int | None = None
    max_cohort: int | None = None
    separation: int = 1
    cohort: int | None = None

    def __post_init__(self) -> None:
        check_positive("noise multiplier", self.noise_multiplier)
        check_rate("client rate", self.rate)
        if self.relation is Relation.REPLACE_ONE:
            raise ValueError(
                f"relation = {self.relation}: replacing a client moves the sum by twice the clip norm; allowed: "
                f"{Relation.ZERO_OUT}, {Relation.ADD_OR_REMOVE_ONE}"
            )
        if self.relation is Relation.ADD_OR_REMOVE_ONE:
            self._check_constants()
        check_count("clients", self.clients)
        check_count("cohort", self.cohort)
        if self.clients is None and self.sampling in (Sampling.TRUNCATED_POISSON, Sampling.FIXED):
            raise ValueError(f"sampling = {self.sampling}: needs the number of clients")
        if (self.max_cohort is None) != (self.sampling is not Sampling.TRUNCATED_POISSON):
            raise ValueError(
                f"max cohort = {self.max_cohort}: goes with truncated-poisson sampling, and only with it"
            )
        check_count("max cohort", self.max_cohort)
        if self.separation < 1 or (self.separation > 1 and self.sampling is not Sampling.SEPARATED):
            raise ValueError(
                f"separation = {self.separation}: goes with b-min-sep sampling, and only with it"
            )

    def _check_constants(self) -> None:
        """Raise `ValueError` for values that adding or removing a client would change.

        The theorem on Poisson-sampled Gaussians draws the other clients of both data sets with the same rate. With
        `rate = cohort / clients`, every client's rate depends on the number of clients, and releases reveal it: with
        20 clients or 19, cohorts of 10 and noise multiplier 4, 100 rounds have an epsilon above 8.66 at delta 1e-3,
        where the theorem would give 4.25. So rate and denominator must be constants. The distributions of fixed and
        truncated cohorts depend on the number of clients; no theorem covers them.
        """
        if self.clients is not None:
            raise ValueError(
                f"clients = {self.clients}: their number is what {self.relation} protects, so no rate may depend "
                f"on it; allowed: a declared rate alone, or {Relation.ZERO_OUT}"
            )
        if self.sampling is not Sampling.POISSON:
            raise ValueError(
                f"sampling = {self.sampling}: its distribution depends on the number of clients, which {self.relation} "
                f"protects; allowed: {Sampling.POISSON} with a declared rate, or {Relation.ZERO_OUT}"
            )

    @classmethod
    def of(cls, release: CohortTerms) -> Self:
        """Return the mechanism of released rounds, from the ledger (`Ledger.spent`); raises `ValueError` as the class."""
        separation, rate = release.separation or 1, release.rate
        if rate is None:
            if release.clients is None:
                raise ValueError("rate: needed where the number of clients is not given")
            rate = separation * release.cohort / release.clients
        return cls(**release._asdict() | {"separation": separation, "rate": rate})

    def of_population(self, clients: int, cohort: int, simulated_cohort: int) -> Self:
        """Return the mechanism of a deployment with a larger population and the same noise on the mean.

        The simulation represents it, as in pfl-research: the noise on the mean has standard deviation z C / m, which
        a cohort of m' reaches with z' = z m' / m. The epsilon is the deployment's, not that of the simulated clients.
        Under add-or-remove-one the deployment declares `cohort / clients` as its rate.

        Args:
            clients: The deployment's; under add-or-remove-one its expected number.
            cohort: The deployment's m', 1 to `clients`, else `ValueError` is raised.
            simulated_cohort: The simulation's m, 1 or more.
        """
        if not 1 <= cohort <= clients or simulated_cohort < 1:
            raise ValueError(
                f"population: a cohort of {cohort} in {clients} clients, for one of {simulated_cohort}"
            )
        factor = cohort / simulated_cohort
        return replace(
            self,
            noise_multiplier=self.noise_multiplier * factor,
            rate=self.separation * cohort / clients,
            clients=None if self.relation is Relation.ADD_OR_REMOVE_ONE else clients,
            cohort=cohort,
            max_cohort=None if self.max_cohort is None else math.ceil(self.max_cohort * factor),
        )

    @property
    def population(self) -> float | None:
        """Number of clients, or its estimate from public constants; None: there is none."""
        if self.clients is not None or self.cohort is None:
            return self.clients
        return self.separation * self.cohort / self.rate

    def chances(self, rounds: int) -> int:
        """Return the number of rounds open to a client, of a number of rounds."""
        return -(-rounds // self.separation)

    @property
    def everyone(self) -> bool:
        """Whether each client takes part in every round open to it."""
        return self.rate == 1 and (
            self.max_cohort is None or self.clients is None or self.max_cohort >= self.clients
        )


def known_cohort(release: CohortMechanism, participations: int, delta: float) -> AdversaryCost:
    """Return epsilon against an adversary that sees each round's model and knows the cohorts: no amplification.

    Arguments as in `released_models`; `participations` are the most rounds in which the client takes part, 0 or more,
    fixed in advance.

    Raises:
        NoTheorem: The relation is add-or-remove-one: the cohort reveals whether a client exists.
        ValueError: A value is out of its range.
    """
    _check(release, participations, delta)
    if release.relation is Relation.ADD_OR_REMOVE_ONE:
        raise NoTheorem("who knows the cohorts sees whether a client is there; allowed: zero-out")
    return AdversaryCost(
        epsilon_of_gaussians(release.noise_multiplier, participations, delta), Relation.ZERO_OUT
    )


def released_models(
    release: CohortMechanism,
    rounds: int,
    delta: float,
    *,
    max_participations: int | None = None,
    tolerance: float = pld.TOLERANCE,
) -> AdversaryCost:
    """Return epsilon against an adversary that sees each round's model only; cohorts are secret.

    | sampling | theorem |
    | --- | --- |
    | everyone each time | Gaussians compose; no amplification |
    | poisson | the Poisson-sampled Gaussian, by PLD and RDP (Mironov, Talwar, Zhang 2019) |
    | truncated-poisson | by PLD (dp-accounting's TruncatedSubsampledGaussian); by RDP there is none |
    | b-min-sep | poisson, in the rounds of the client's group alone, which others' rounds tell nothing of |
    | fixed | by RDP, without replacement, under replace-one with sensitivity 2 C, which includes zero-out |

    Cohorts of fixed size have no PLD theorem; the PLD bound is that without amplification.

    Args:
        release: Of a round.
        rounds: Number of released models, 0 or more.
        delta: Above 0, and below 1 / the clients where their number is given.
        max_participations: Most participations of a client; None: no limit.
        tolerance: Of the PLD's grid (`pld.epsilon_of`); a larger one is faster, and its bound is valid too.

    Raises:
        NoTheorem: No theorem covers this combination.
        ValueError: A value is out of its range.

    >>> release = CohortMechanism(noise_multiplier=1.0, rate=0.01)
    >>> epsilon = released_models(release, rounds=1000, delta=1e-5).epsilon
    >>> round(epsilon.pld, 3), round(epsilon.rdp, 3)
    (1.828, 2.101)
    """
    _check(release, rounds, delta)
    noise, count = release.noise_multiplier, release.chances(rounds)
    if max_participations is not None:
        raise NoTheorem(
            "a client that stops after so many rounds is not Poisson-sampled (under zero-out, what holds "
            "for known-cohort holds here too)"
        )
    if release.everyone:
        return AdversaryCost(epsilon_of_gaussians(noise, count, delta), release.relation)
    if release.sampling is Sampling.FIXED:
        return _without_replacement(release, count, delta)
    truncated = release.max_cohort is not None
    if count == 0 or noise < renyi.LEAST:
        known = 0.0 if count == 0 else math.inf
        return AdversaryCost(Epsilon(known, None if truncated else known), release.relation)
    step = pld.Step(noise, release.rate)
    if release.max_cohort is not None and release.clients is not None:
        step = pld.truncated_step(noise, release.rate, release.max_cohort, release.clients)
    rdp = None if truncated else renyi.epsilon(noise, release.rate, count, delta)
    return AdversaryCost(
        Epsilon(pld.epsilon_of_steps(step, count, delta, tolerance), rdp),
        release.relation,
        "no RDP, for there is no theorem for cohorts that are cut" if truncated else "",
    )


def side_by_side(
    release: CohortMechanism,
    rounds: int,
    delta: float,
    *,
    max_participations: int | None = None,
    tolerance: float = pld.TOLERANCE,
) -> dict[str, AdversaryCost]:
    """Return the epsilon against each adversary, by name; arguments and `ValueError` as in `released_models`."""
    answers = {}
    for name in ADVERSARIES:
        try:
            answers[name] = _answer(name, release, rounds, delta, max_participations, tolerance)
        except NoTheorem as reason:
            answers[name] = AdversaryCost(None, None, str(reason))
    return answers


def noise_for(
    epsilon: float,
    adversary: str,
    release: CohortMechanism,
    rounds: int,
    delta: float,
    *,
    max_participations: int | None = None,
) -> float:
    """Return the smallest noise multiplier (up to 0.2 %) that keeps an epsilon against an adversary.

    Args:
        epsilon: Above 0.
        adversary: `known-cohort` or `released-models`.
        release: Of a round; its noise multiplier is ignored.
        rounds: 1 or more.
        delta: As in `released_models`.
        max_participations: As in `released_models`.

    Raises:
        NoTheorem: No theorem gives an epsilon against this adversary.
        ValueError: A value is out of its range, or no noise reaches the epsilon, as against the server.

    >>> noise_for(1.0, "released-models", CohortMechanism(noise_multiplier=1.0, rate=0.1), rounds=512, delta=1e-6)
    9.6698
    """
    if adversary == SERVER:
        raise ValueError("adversary = server: it is trusted, and no noise on the sums hides them from it")

    def at(noise: float) -> Epsilon:
        noised = replace(release, noise_multiplier=noise)
        answer = _answer(adversary, noised, rounds, delta, max_participations, pld.ROUGH)
        if answer.epsilon is None:
            raise NoTheorem(answer.why)
        return answer.epsilon

    return smallest_noise(at, epsilon)


def _answer(
    adversary: str,
    release: CohortMechanism,
    rounds: int,
    delta: float,
    max_participations: int | None,
    tolerance: float,
) -> AdversaryCost:
    if adversary == RELEASED_MODELS:
        return released_models(
            release, rounds, delta, max_participations=max_participations, tolerance=tolerance
        )
    if adversary == KNOWN_COHORT:
        most = release.chances(rounds)
        return known_cohort(
            release, most if max_participations is None else min(max_participations, most), delta
        )
    if adversary == SERVER:
        why = "trusted: it has the sums before the noise"
        return AdversaryCost(Epsilon(math.inf, math.inf), release.relation, why)
    raise ValueError(f"adversary = {adversary!r}: allowed: {', '.join(ADVERSARIES)}")


def _without_replacement(release: CohortMechanism, count: int, delta: float) -> AdversaryCost:
    """Return both bounds under zero-out: PLD without amplification, RDP of samples under replace-one."""
    if release.clients is None:
        raise RuntimeError("unreachable: a release of fixed cohorts has the number of clients")
    noise, cohort = release.noise_multiplier, round(release.rate * release.clients)
    everyone = epsilon_of_gaussians(noise, count, delta)
    rdp = everyone.rdp
    if rdp is not None and 0 < rdp < math.inf:
        rdp = min(rdp, renyi.epsilon_without_replacement(noise, cohort, release.clients, count, delta))
    return AdversaryCost(
        replace(everyone, rdp=rdp),
        Relation.ZERO_OUT,
        "PLD without amplification, for there is no theorem for fixed cohorts; RDP under replace-one, which includes "
        "zero-out, with sensitivity 2 C",
    )


def _check(release: CohortMechanism, count: int, delta: float) -> None:
    check_delta(delta)
    population = release.population
    if population is not None and delta >= 1 / population:
        of = "clients" if release.clients is not None else "(cohort / rate)"
        raise ValueError(
            f"delta = {delta}: must be below 1 / {of} = 1 / {population:.10g}: a mechanism that publishes one "
            "client at random would pass"
        )
    check_count("rounds", count, least=0)
