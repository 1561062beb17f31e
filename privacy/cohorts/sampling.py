"""Cohort sampling in a run: draws the clients of each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from fedsim.privacy.cohorts.draw import draw
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
        """Draw a round's clients, in ascending order.

        Args:
            round_: From 1.
            clients: Number of clients.

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
        """Go on from a state.

        Raises:
            ValueError: The state belongs to another rule.
        """


class IndependentCohorts(CohortSampling):
    """Cohorts of a fixed size, or by Poisson sampling: each round's draw is its own.

    Args:
        rule: The public rule.
        coins: Returns a round's random generator.
    """

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
