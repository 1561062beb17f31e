"""How often a client has taken part, where it releases by itself: counted in its own state."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context

from fedsim.privacy.events import Noise
from fedsim.privacy_sections import PARTICIPATIONS
from fedsim.records import config_in


class BudgetExhausted(ValueError):
    """A client has taken part as often as it may."""


def take_part(context: Context, most: int | None, round_: int, noise: Noise) -> None:
    """Count a participation in a client's state.

    Args:
        context: The client's.
        most: Participations at most; None: there is no limit.
        round_: The round. Where the noise is seeded, one that a resumed server runs again is the same release.
        noise: Where the noise comes from.

    Raises:
        BudgetExhausted: It has had them all.
    """
    count = config_in(context.state, PARTICIPATIONS)
    so_far = int(count.get("rounds", 0))  # type: ignore[arg-type]
    if noise is Noise.SEEDED and count.get("last") == round_:
        return
    if most is not None and so_far >= most:
        raise BudgetExhausted(f"has taken part in {so_far} rounds, all that max-participations allows")
    context.state[PARTICIPATIONS] = ConfigRecord({"rounds": so_far + 1, "last": round_})
