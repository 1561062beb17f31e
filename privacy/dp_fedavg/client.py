"""DP-FedAvg on a client: clips the update jointly over all arrays; the trusted server adds the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.dp_fedavg.adaptive import shifted_bit
from fedsim.privacy.dp_fedavg.gaussian import SHIFTED_BIT, UPDATE, shifted, shifted_name
from fedsim.privacy.dp_fedavg.settings import ReleasedMetricSettings
from fedsim.privacy.halves import ClientHalf, ClientRound, Protected


class ClippingClient(ClientHalf):
    """Clips the update jointly over all arrays. An update with NaN or infinity becomes zero.

    The server gives the clip norm, and says whether to report if the norm was below it. Released metrics leave the
    client clipped and shifted; their bounds come from the experiment, not from the server.

    Args:
        released: Released metrics, by name.
    """

    protects = "difference"

    def __init__(self, released: Mapping[str, ReleasedMetricSettings]) -> None:
        self._released = released

    def protect(self, update: NDArray[Any], metrics: Mapping[str, float], at: ClientRound) -> Protected:
        """Return the clipped update, and the terms of the metrics. As `ClientHalf` says."""
        norm = float(at.instructions["clip-norm"])
        clipped = clip_jointly({UPDATE: update}, norm, in_place=True)
        bit = {SHIFTED_BIT: shifted_bit(clipped, norm)} if at.instructions.get("clip-bit") else {}
        terms = {
            shifted_name(name): shifted(float(metrics[name]), released.bound)
            for name, released in self._released.items()
        }
        return Protected(clipped.arrays[UPDATE], bit | terms, None)
