"""Counts the participations of a client that releases its update itself, in its state."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context

from fedsim.privacy.events import Noise
from fedsim.records import config_in
from fedsim.sections.privacy import PARTICIPATIONS


class BudgetExhausted(ValueError):
    """A client has no participations left."""


def count_participation(context: Context, most: int | None, round_: int, noise: Noise) -> None:
    """Count a participation in a client's state.

    Args:
        context: The client's.
        most: Most participations; None: no limit.
        round_: The round. With seeded noise, a repetition by a resumed server is the same release and does not count.
        noise: Source of the noise.

    Raises:
        BudgetExhausted: The client has no participations left.
    """
    count = config_in(context.state, PARTICIPATIONS)
    so_far = int(count.get("rounds", 0))  # type: ignore[arg-type]
    if noise is Noise.SEEDED and count.get("last") == round_:
        return
    if most is not None and so_far >= most:
        raise BudgetExhausted(f"has taken part in {so_far} rounds, all that max-participations allows")
    context.state[PARTICIPATIONS] = ConfigRecord({"rounds": so_far + 1, "last": round_})
