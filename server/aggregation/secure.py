"""Sums updates by secure aggregation: the server learns the weighted mean, and no single update."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from flwr.app import Message
from flwr.serverapp import Grid

from fedsim.algorithms.protocol import Arrays, Fields
from fedsim.data import FederatedData
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.layout import plus
from fedsim.privacy.halves import Sums
from fedsim.privacy.secagg.encoding import MOST_INPUT_BITS, Decoded
from fedsim.privacy.secagg.spec import Policy
from fedsim.secagg.setup import described, graph_entropy, policy_of
from fedsim.server.aggregation.secure_grid import SecureGrid, mean_of
from fedsim.server.aggregation.updates import Aggregator, Ask, Collected, NoUpdates, Updates
from fedsim.server.process import ServerProcess

MUCH_CUT = 0.01  # share of clipped coordinates
MUCH_ROUNDED = 0.1  # L2 norm of the rounding errors, relative to the sum's

log = logging.getLogger(__name__)


class SecureMean(Updates):
    """The weighted mean decoded from the protocol's sum."""

    def __init__(self, decoded: Decoded, ask: Ask) -> None:
        self.count = decoded.clients
        self.reported, self.reported_sums = decoded.metrics, decoded.metric_totals
        self._decoded = decoded
        self._ask = ask

    def messages(self) -> list[Message]:
        """Return one message with the mean."""
        update, _ = self._mean
        content = mean_of(plus(self._ask.model, update), self._decoded)
        return [Message(content, reply_to=self._ask.requests[0])]

    def changes(self) -> Fields:
        """Return the means of the fields' changes."""
        _, changes = self._mean
        return changes

    def sums(self) -> Sums:
        """Return the sum of the differences, by the layout's names."""
        return self._ask.layout.split(self._decoded.total)

    @cached_property
    def _mean(self) -> tuple[Arrays, Fields]:
        layout = self._ask.layout
        return layout.separate(layout.split(self._decoded.update))


@dataclass
class Secure(Aggregator):
    """Trains a cohort with secure aggregation. If there is no sum, all clients have failed, and the run continues.

    The first round in which more than 1 % of the coordinates are clipped is told of, and the first in which rounding
    errors are more than 10 % of the sum.
    """

    secure: ClassVar[bool] = True

    grid: SecureGrid
    described: dict[str, Any]
    clip: float
    _told: set[str] = field(default_factory=set)

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort. As `Aggregator` says."""
        result = self.grid.aggregate(ask.requests, timeout=ask.timeout, before_upload=ask.charge)
        columns: dict[str, Any] = {"secagg-bytes-up": result.bytes_up, "secagg-bytes-down": result.bytes_down}
        if result.decoded is None:
            nothing = NoUpdates(ask.layout)
            return Collected(nothing, failures=result.lost, no_sum=result.why, columns=columns)
        columns["secagg-clipped"] = result.clipped
        self._tell_what_is_lost(result.decoded, result.clipped)
        rest = sorted(set(ask.grid.clients) - set(result.summed))
        failures = {client: result.lost.get(client, "lost too many neighbours") for client in rest}
        return Collected(SecureMean(result.decoded, ask), failures, columns=columns)

    def _tell_what_is_lost(self, decoded: Decoded, clipped: float) -> None:
        if clipped > MUCH_CUT:
            self._tell_once(
                f"privacy.secagg.clip = {self.clip:g}: cut {100 * clipped:.2g} % of the coordinates of a round's updates, "
                f"so the model is not the mean; try {2 * self.clip:g}"
            )
        if (error := decoded.rounding) > MUCH_ROUNDED:
            bits = self.grid.policy.encoding.input_bits
            more = min(bits + math.ceil(math.log2(error / MUCH_ROUNDED)), MOST_INPUT_BITS)
            self._tell_once(
                f"privacy.secagg.input-bits = {bits}: rounding to it changed the sum of a round's updates by up to "
                f"{100 * error:.2g} %; try {more}"
            )

    def _tell_once(self, text: str) -> None:
        key, _, _ = text.partition(" = ")
        if key not in self._told:
            self._told.add(key)
            log.warning("%s", text)

    def report(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return self.described


def policy_for(experiment: Experiment, dimension: int, data: FederatedData) -> Policy | None:
    """Return the policy that server and clients of a run agree on; None without secure aggregation.

    Raises:
        Refused: A client exceeds the largest weight.
    """
    section = experiment.privacy.secagg
    if section is None:
        return None
    records = data.training_sizes()
    if section.max_weight is not None and section.max_weight < records.max():
        raise Refused(
            f"privacy.secagg.max-weight = {section.max_weight}: must be at least {records.max()}, the most examples "
            "of a client"
        )
    return policy_of(experiment, dimension, records)


def secure_aggregator(
    grid: Grid,
    experiment: Experiment,
    policy: Policy,
    nodes: Mapping[int, int],
    label: int,
    deployment: ServerProcess | None,
) -> Secure:
    """Return the aggregator of a run with secure aggregation; `label` identifies the run in the protocol.

    Raises:
        Refused: The adversary is a malicious server, and the server process has no keys of its clients.
    """
    section = experiment.privacy.secagg
    if section is None:
        raise TypeError("the experiment has no [privacy.secagg]")
    registered = policy
    if deployment is not None and policy.assumptions.malicious:
        registered = replace(policy, registry=deployment.identities())
    secret = deployment is not None and not deployment.loopback
    secured = SecureGrid(
        grid,
        registered,
        nodes=nodes,
        run=str(label),
        graph_seed=lambda round_: graph_entropy(experiment, round_, secret=secret)(32),
    )
    return Secure(secured, described(policy, section, experiment.server.cohort), section.clip)
