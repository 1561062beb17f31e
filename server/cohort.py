"""Who takes part in a round."""

from __future__ import annotations

from typing import Literal

import numpy as np


def draw(
    sampling: Literal["fixed", "poisson"], cohort: int, clients: int, generator: np.random.Generator
) -> list[int]:
    """Draw a round's clients, in ascending order.

    Args:
        sampling: `fixed`: `cohort` different clients, each set equally likely. `poisson`: each client by its own
            coin, with probability `cohort / clients`; the result may be empty.
        cohort: From 1 to `clients`.
        clients: The population; clients are numbered from 0.
        generator: The round's stream.
    """
    if not 1 <= cohort <= clients:
        raise ValueError(f"cohort {cohort} of {clients} clients")
    if sampling == "fixed":
        drawn = generator.choice(clients, size=cohort, replace=False)
    else:
        drawn = np.flatnonzero(generator.random(clients) < cohort / clients)
    return sorted(int(client) for client in drawn)
