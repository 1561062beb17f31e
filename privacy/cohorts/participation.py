"""Participation patterns, on which the sensitivity of correlated noise rests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Participation:
    """At most `most` participations of a client in `rounds` rounds, any two at least `separation` rounds apart.

    The pattern is called (k, b)-min-sep or b-min-separation in the literature (Choquette-Choo et al. 2023,
    arXiv 2306.08153): rounds i < j of one client's participations have j - i >= b.

    Attributes:
        rounds: Of the whole training, 1 or more.
        separation: 1 or more; 1 lets a client take part in consecutive rounds.
        most: 1 or more; None: as many as the separation allows.

    Raises:
        ValueError: A value is out of its range.
    """

    rounds: int
    separation: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("rounds", self.rounds), ("separation", self.separation)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be 1 or more")
        if self.most is not None and self.most < 1:
            raise ValueError(f"participations = {self.most}: must be 1 or more")

    @property
    def participations(self) -> int:
        """Largest possible number of a client's participations."""
        fit = -(-self.rounds // self.separation)
        return fit if self.most is None else min(self.most, fit)


class History:
    """Record of past participations; refuses a participation that the pattern forbids.

    It reveals the cohorts, and is as secret as they are.

    Args:
        participation: The pattern.
        state: `state` of an earlier history with this pattern; None: no participations yet.

    Raises:
        ValueError: The state is malformed.
    """

    def __init__(
        self, participation: Participation, state: Mapping[str, NDArray[np.int64]] | None = None
    ) -> None:
        self._participation = participation
        self._last: dict[int, int] = {}
        self._count: dict[int, int] = {}
        if state is not None:
            clients, last, count = (state[name].tolist() for name in ("clients", "last", "count"))
            if not len(clients) == len(last) == len(count) == len(set(clients)):
                raise ValueError(
                    "state: clients, last and count must be of the same length, and no client twice"
                )
            self._last = dict(zip(clients, last, strict=True))
            self._count = dict(zip(clients, count, strict=True))

    def refusal(self, round_: int, client: int) -> str | None:
        """Return the reason why a client may not take part in a round (from 1), or None."""
        pattern = self._participation
        if not 1 <= round_ <= pattern.rounds:
            return f"round {round_}: the noise is planned for rounds 1 to {pattern.rounds}"
        last = self._last.get(client)
        if last is None:
            return None
        if round_ - last < pattern.separation:
            return (
                f"round {round_}: client {client} took part in round {last}, and participations must be "
                f"{pattern.separation} or more rounds apart"
            )
        if self._count[client] >= pattern.participations:
            return f"round {round_}: client {client} took part {self._count[client]} times, which is the most"
        return None

    def is_spent(self, client: int) -> bool:
        """Return whether a client has no participations left."""
        return self._count.get(client, 0) >= self._participation.participations

    def admit(self, round_: int, clients: Iterable[int]) -> None:
        """Record a cohort before it trains, or none of it if one of its clients is refused.

        Args:
            round_: From 1; not before the last one.
            clients: Each once.

        Raises:
            ValueError: A client may not take part, with the round, the client and the reason.
        """
        cohort = list(clients)
        if len(set(cohort)) < len(cohort):
            raise ValueError(f"round {round_}: a client is in the cohort twice")
        for client in cohort:
            reason = self.refusal(round_, client)
            if reason is not None:
                raise ValueError(reason)
        for client in cohort:
            self._last[client] = round_
            self._count[client] = self._count.get(client, 0) + 1

    def state(self) -> dict[str, NDArray[np.int64]]:
        """Return `clients`, their `last` rounds and the `count` of their participations, each `(clients,)`."""
        clients = sorted(self._last)
        columns = {
            "clients": clients,
            "last": [self._last[client] for client in clients],
            "count": [self._count[client] for client in clients],
        }
        return {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
