"""The learning rate of a round: warm-up, then the schedule."""

from __future__ import annotations

import math

from fedsim.errors import Refused
from fedsim.sections import ClientSection


def learning_rate(client: ClientSection, rounds: int, round_: int) -> float:
    """Return the learning rate of a round, from 1 to `rounds`.

    With `warmup-rounds = k` the rate rises linearly over the first k rounds, `r / (k + 1)` of `learning-rate` in
    round r (Goyal et al. 2017); round k + 1 is the first of the schedule, over the rounds that are left. A user's
    own `"module:callable"` is called as `schedule(round, rounds, **options)`, with `[client.schedule-options]` as
    keyword arguments.

    Raises:
        Refused: The callable is missing, doesn't take the options, or returns no finite number of at least 0.
    """
    warmup = client.warmup_rounds or 0
    if round_ <= warmup:
        return client.learning_rate * round_ / (warmup + 1)
    entry = client.schedule_entry
    try:
        factor = entry.load()(round_ - warmup, rounds - warmup, **client.schedule_arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Refused(f"client.schedule = {entry.name!r}: {error}") from None
    if not isinstance(factor, float | int) or not (math.isfinite(factor) and factor >= 0):
        raise Refused(
            f"client.schedule = {entry.name!r}: returned {factor!r} for round {round_ - warmup}; "
            "a finite number is needed, at least 0"
        )
    return client.learning_rate * factor


def check_schedule(client: ClientSection, rounds: int) -> None:
    """Refuse a schedule that has no rate for some round, before anything runs; errors as `learning_rate`."""
    for round_ in range(1, rounds + 1):
        learning_rate(client, rounds, round_)
