"""The server's half of a privacy mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Event

Sums = Mapping[str, NDArray[np.float64]]


class Released(NamedTuple):
    """A round's release.

    Attributes:
        mean: Noised mean update, by name.
        metrics: Noised means of clients' metrics, by name.
        event: For the ledger.
    """

    mean: Sums
    metrics: Mapping[str, float]
    event: Event


class ServerHalf:
    """The server's half of a mechanism. By default it does nothing: sums are used unchanged.

    Attributes:
        noises: Whether clients send clipped differences, and the server releases their noised sum in every round, also
            in one without updates.
        key: Secret key of the noise if it is kept between the sessions of a run; else empty.
    """

    noises: ClassVar[bool] = False
    key: bytes = b""

    def instructions(self) -> dict[str, Any]:
        """Return instructions for clients, for a message's config."""
        return {}

    def prefetch(self, round_: int) -> None:
        """Begin to draw a round's noise while clients train."""

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Noise a round's sums.

        Args:
            total: Sum of the clipped updates, float64, by name; zeros without updates.
            round_: From 1.
            reported: Sums of the metrics of `Mechanism.metric_terms`, by their names in the ledger; 0 without updates.

        Raises:
            ValueError: The round can't be released, or was already.
        """
        raise NotImplementedError("a mechanism that noises sums must define release")

    def state(self) -> dict[str, Any]:
        """Return the state that the next rounds depend on, without the key, as a tree for the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: The state belongs to another mechanism.
        """
