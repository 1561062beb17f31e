"""Public rules for a round's clients, used by the server's draw and by the accounting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from fedsim.privacy.events import Sampling
from fedsim.privacy.ranges import check_count, check_rate


@dataclass(frozen=True, kw_only=True)
class Cohorts:
    """A rule for cohorts. All of it is public; the drawn clients are secret if sampling amplifies privacy.

    Attributes:
        clients: The population, 1 or more; None if `declared` replaces it.
        cohort: Expected clients in a cohort, from 1 to `clients`: the denominator of released means.
        max_cohort: Most clients in a cohort, `cohort` or more; a larger one is cut to a uniformly random subset. For
            truncated Poisson cohorts only.
        separation: A client takes part at most once in so many rounds, 1 or more. For b-min-separated cohorts only.
        declared: Probability with which each client is drawn, above 0 and at most 1: a constant that does not depend
            on the number of clients. Needed if that number is protected (add-or-remove-one). For Poisson cohorts
            only.

    Raises:
        ValueError: A value is out of its range, or does not belong to the scheme.
    """

    sampling: Sampling
    clients: int | None
    cohort: int
    max_cohort: int | None = None
    separation: int | None = None
    declared: float | None = None

    def __post_init__(self) -> None:
        if (self.clients is None) == (self.declared is None):
            raise ValueError(
                f"declared rate = {self.declared}: needed where the number of clients is not given, which is "
                f"{self.clients}; allowed: one of them"
            )
        if self.declared is not None:
            check_rate("declared rate", self.declared)
        if self.declared is not None and self.sampling is not Sampling.POISSON:
            raise ValueError(
                f"declared rate = {self.declared}: {self.sampling} cohorts follow from the number of clients; "
                f"allowed: {Sampling.POISSON}"
            )
        if self.cohort < 1 or (self.clients is not None and self.cohort > self.clients):
            most = "or more" if self.clients is None else f"to {self.clients} clients"
            raise ValueError(f"cohort = {self.cohort}: must be 1 {most}")
        if (self.max_cohort is None) != (self.sampling is not Sampling.TRUNCATED_POISSON):
            raise ValueError(
                f"max cohort = {self.max_cohort}: goes with truncated-poisson sampling, and only with it"
            )
        if self.max_cohort is not None and self.max_cohort < self.cohort:
            raise ValueError(
                f"max cohort = {self.max_cohort}: must be the expected cohort, {self.cohort}, or more"
            )
        if (self.separation is None) != (self.sampling is not Sampling.SEPARATED):
            raise ValueError(
                f"separation = {self.separation}: goes with b-min-sep sampling, and only with it"
            )
        if (
            self.separation is not None
            and self.clients is not None
            and not 1 <= self.separation * self.cohort <= self.clients
        ):
            raise ValueError(
                f"separation = {self.separation}: {self.separation} groups of {self.cohort} clients or more need "
                f"more than {self.clients} clients"
            )

    @classmethod
    def of(
        cls,
        sampling: Sampling,
        cohort: int,
        clients: int,
        *,
        most: int | None = None,
        declared: float | None = None,
    ) -> Self:
        """Return the `fixed`, `poisson` or `truncated-poisson` rule; a declared rate replaces the number of clients.

        Arguments and `ValueError` as in the rule; `most` is for a truncated cohort, by default `roomy_cohort`.
        """
        truncated = sampling is Sampling.TRUNCATED_POISSON
        return cls(
            sampling=sampling,
            clients=clients if declared is None else None,
            cohort=cohort,
            max_cohort=(most or roomy_cohort(cohort, clients)) if truncated else None,
            declared=declared,
        )

    @property
    def rate(self) -> float:
        """Probability that a client is drawn for a round open to it.

        With separation b only one round of b is open to it, so the probability is b times as high.
        """
        if self.declared is not None:
            return self.declared
        return (self.separation or 1) * self.cohort / self.population

    @property
    def share(self) -> float:
        """Expected share of the clients in a cohort, above 0 and at most 1."""
        return self.cohort / self.population if self.declared is None else self.declared

    @property
    def cut(self) -> float:
        """Expected share of the drawn clients that the maximum cuts."""
        return 0.0 if self.max_cohort is None else share_cut(self.max_cohort, self.population, self.rate)

    @property
    def population(self) -> int:
        """Number of clients; raises `ValueError` if the rate is declared, so that there is none."""
        if self.clients is None:
            raise ValueError(
                f"clients = None: the rate, {self.declared}, is declared, and their number protected"
            )
        return self.clients


def roomy_cohort(cohort: float, clients: int) -> int:
    """Return a maximum that one Poisson cohort in millions exceeds: five standard deviations above the mean.

    >>> roomy_cohort(100, 10_000)
    150
    """
    return min(math.ceil(cohort + 5 * math.sqrt(cohort * (1 - cohort / clients))), clients)


def share_cut(most: int, count: int, rate: float) -> float:
    """Return the expected share of a Poisson sample that a limit cuts: E[max(X - most, 0)] / E[X], X binomial.

    Args:
        most: The limit, 0 or more.
        count: Items, each drawn with probability `rate`; 1 or more.
        rate: Above 0 and at most 1.
    """
    from scipy.stats import binom

    mean = count * rate
    end = min(count, max(most, math.ceil(mean + 10 * math.sqrt(mean) + 10)))  # the rest is below 1e-12
    return float(binom.sf(np.arange(most, end), count, rate).sum()) / mean


@dataclass(frozen=True, kw_only=True)
class Participation:
    """At most `most` participations of a client in `rounds` rounds, any two at least `separation` rounds apart.

    The pattern is called (k, b)-min-sep or b-min-separation in the literature (Choquette-Choo et al. 2023,
    arXiv 2306.08153): rounds i < j of one client's participations have j - i >= b. Raises `ValueError` for a value out
    of its range.

    Attributes:
        rounds: Of the whole training, 1 or more.
        separation: 1 or more; 1 lets a client take part in consecutive rounds.
        most: 1 or more; None: as many as the separation allows.
    """

    rounds: int
    separation: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_count("separation", self.separation)
        check_count("participations", self.most)

    @property
    def participations(self) -> int:
        """Largest possible number of a client's participations."""
        fit = -(-self.rounds // self.separation)
        return fit if self.most is None else min(self.most, fit)
