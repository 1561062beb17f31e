"""Cohort sampling in a run: draws the clients of each round by a public rule (`Cohorts`) and secret random coins."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from fedsim.privacy.cohorts.rule import Cohorts

Coins = Callable[[int], np.random.Generator]


class CohortSampling:
    """Draws the clients of each round.

    Attributes:
        stateful: Whether a draw depends on earlier draws. Cohorts from secret coins are then noted before any client
            is asked, so that a repeated round has the same clients.
        noted: Cohorts drawn by earlier sessions, by round.
        note: Called with a round and its cohort, before any client is asked.
    """

    stateful: ClassVar[bool] = False

    def __init__(self) -> None:
        self.noted: Mapping[int, list[int]] = {}
        self.note: Callable[[int, list[int]], None] = lambda round_, cohort: None

    def draw(self, round_: int, clients: int) -> list[int]:
        """Draw the clients of a round (from 1), of a number of clients, in ascending order.

        Raises:
            ValueError: The cohort would break the rule.
        """
        raise NotImplementedError("a sampling must define draw")

    def abandon(self, round_: int, clients: int) -> None:
        """Count the clients of an interrupted round as having taken part."""

    def state(self) -> dict[str, Any]:
        """Return the state that the next draws depend on, as a tree for the checkpoint; secret."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises `ValueError` if it belongs to another rule."""


class IndependentCohorts(CohortSampling):
    """Cohorts of a fixed size, or by Poisson sampling: each round's draw is its own, by the generator of `coins`."""

    def __init__(self, rule: Cohorts, coins: Coins) -> None:
        super().__init__()
        self._rule = rule
        self._coins = coins

    def draw(self, round_: int, clients: int) -> list[int]:
        """Draw a round's clients, in ascending order. As `CohortSampling` says."""
        rule = self._rule
        return draw(
            rule.sampling.value,  # type: ignore[arg-type]
            rule.cohort,
            clients,
            self._coins(round_),
            max_cohort=rule.max_cohort,
            rate=rule.declared,
        )


def draw(
    sampling: Literal["fixed", "poisson", "truncated-poisson"],
    cohort: int,
    clients: int,
    generator: np.random.Generator,
    *,
    max_cohort: int | None = None,
    rate: float | None = None,
) -> list[int]:
    """Draw a round's clients, in ascending order.

    Args:
        sampling: `fixed`: `cohort` different clients, each set equally likely. `poisson`: each client independently
            with probability `cohort / clients`; the result may be empty. `truncated-poisson`: the same, cut to a
            uniformly random subset of `max_cohort`.
        cohort: From 1 to `clients`; ignored if `rate` is declared.
        clients: The population; clients are numbered from 0.
        generator: Of the round.
        max_cohort: `cohort` or more; with `truncated-poisson`, and only with it.
        rate: Declared probability of drawing each client, above 0 and at most 1, independent of the population; for
            `poisson` only. None: `cohort / clients`. `ValueError` is raised for values out of range.
    """
    if rate is not None:
        if sampling != "poisson" or not 0 < rate <= 1:
            raise ValueError(f"a declared rate of {rate} with {sampling} sampling")
        return np.flatnonzero(generator.random(clients) < rate).tolist()
    if not 1 <= cohort <= clients:
        raise ValueError(f"cohort {cohort} of {clients} clients")
    if (max_cohort is None) != (sampling != "truncated-poisson"):
        raise ValueError(f"max cohort {max_cohort} with {sampling} sampling")
    if sampling == "fixed":
        return sorted(generator.choice(clients, size=cohort, replace=False).tolist())
    drawn = np.flatnonzero(generator.random(clients) < cohort / clients)
    if max_cohort is not None and max_cohort < cohort:
        raise ValueError(f"max cohort {max_cohort} of {cohort} expected clients")
    if max_cohort is not None and len(drawn) > max_cohort:
        drawn = generator.choice(drawn, size=max_cohort, replace=False)
    return sorted(drawn.tolist())


def secret_generator() -> np.random.Generator:
    """Return a generator for secret coins, keyed by the operating system; its draws can't be repeated."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16))))
