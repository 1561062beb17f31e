"""What the server does for a privacy mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Event

Sums = Mapping[str, NDArray[np.float64]]


class Released(NamedTuple):
    """What a round releases.

    Attributes:
        mean: Of the updates, noised, by name.
        metrics: Means of what clients reported, noised, by the metrics' names.
        event: For the ledger.
    """

    mean: Sums
    metrics: Mapping[str, float]
    event: Event


class ServerHalf:
    """What the server does for a mechanism; by default nothing: sums are used as they are.

    Attributes:
        noises: Whether clients send clipped differences, whose sum is noised here and released in every round, that of
            no updates too.
        key: The secret key that noise is drawn from, where it is kept between the sessions of a run; else empty.
    """

    noises: ClassVar[bool] = False
    key: bytes = b""

    def instructions(self) -> dict[str, Any]:
        """Return what clients are told, for a message's config."""
        return {}

    def prefetch(self, round_: int) -> None:
        """Begin to draw a round's noise, while clients train."""

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Noise a round's sums.

        Args:
            total: Sum of the clipped updates, float64, by name; zeros where there were none.
            round_: From 1.
            reported: Sums of the metrics that clients sent for it (`Mechanism.metric_terms`), by their names in the
                ledger; 0 where there were none.

        Raises:
            ValueError: The round can't be released (again).
        """
        raise NotImplementedError("a mechanism that noises sums says how")

    def state(self) -> dict[str, Any]:
        """Return what the next rounds depend on beside the key, as a tree for the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is of another mechanism.
        """
