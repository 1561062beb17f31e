"""Cohort sampling in a run: who is drawn for each round."""

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
        remembers: Whether a draw depends on the draws before it: then the cohorts that secret coins draw are noted
            before anyone is told, so that a round that comes again has the same clients.
        noted: The cohorts, by round, that sessions before this one have drawn.
        note: Called with a round and the cohort that was drawn for it, before anyone is told.
    """

    remembers: ClassVar[bool] = False

    def __init__(self) -> None:
        self.noted: Mapping[int, list[int]] = {}
        self.note: Callable[[int, list[int]], None] = lambda round_, cohort: None

    def draw(self, round_: int, clients: int) -> list[int]:
        """Draw a round's clients, in ascending order.

        Args:
            round_: From 1.
            clients: How many there are.

        Raises:
            ValueError: The cohort would break the rule.
        """
        raise NotImplementedError("a sampling says whom it draws")

    def abandon(self, round_: int, clients: int) -> None:
        """Count a round that was cut short: its clients have taken part."""

    def state(self) -> dict[str, Any]:
        """Return what the next draws depend on, as a tree for the checkpoint; secret."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is of another rule.
        """


class IndependentCohorts(CohortSampling):
    """Cohorts of a fixed size, or by Poisson sampling: each round's draw is its own.

    Args:
        rule: The public rule.
        coins: Of a round.
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
