"""Updates summed by secure aggregation: the server learns their weighted mean, and no client's own."""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord, Message

from fedsim.privacy.secagg.encoding import Decoded
from fedsim.privacy.server_half import Sums
from fedsim.server.aggregation.secure_grid import SecureGrid
from fedsim.server.aggregation.updates import Ask, Collected, Updates
from fedsim.vectors import split


class SecureMean(Updates):
    """The weighted mean that the protocol's sum says."""

    def __init__(self, reply: Message, decoded: Decoded) -> None:
        self.count = decoded.clients
        self.reported = decoded.metrics
        self._reply = reply
        self._decoded = decoded

    def messages(self) -> list[Message]:
        """Return one message that stands for all."""
        return [self._reply]

    def sums(self, model: ArrayRecord) -> Sums:
        """Return the sum of the differences, by the model's names."""
        return split(self._decoded.update * self._decoded.weight, model)


class Secure:
    """Has a cohort train by secure aggregation; without a sum, all have failed, and the run goes on.

    Args:
        grid: Plays the protocol.
        described: What the manifest says of the protection.
    """

    secure = True

    def __init__(self, grid: SecureGrid, described: dict[str, Any]) -> None:
        self._grid = grid
        self._described = described

    def collect(self, ask: Ask) -> Collected:
        """Have the cohort train. As `Aggregator` says."""
        result = self._grid.aggregate(ask.requests, timeout=ask.timeout, before_upload=ask.charge)
        columns: dict[str, Any] = {"secagg-bytes-up": result.bytes_up, "secagg-bytes-down": result.bytes_down}
        if result.reply is None or result.decoded is None:
            return Collected(failures=result.lost, no_sum=result.why, columns=columns)
        columns["secagg-clipped"] = result.clipped
        rest = sorted(set(ask.grid.clients) - set(result.summed))
        failures = {client: result.lost.get(client, "lost too many neighbours") for client in rest}
        return Collected(SecureMean(result.reply, result.decoded), failures, columns=columns)

    def report(self) -> dict[str, Any]:
        """Return what the manifest says of the protection."""
        return self._described
