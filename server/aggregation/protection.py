"""Secure aggregation of a run: its policy, its Grid and its entry in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedsim.data import FederatedData
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.privacy.secagg.spec import Policy
from fedsim.secagg.setup import described, graph_entropy, policy_of
from fedsim.server.aggregation.secure_grid import SecureGrid
from fedsim.server.float_model import check_float
from fedsim.server.process import ServerProcess


def policy_for(
    experiment: Experiment, arrays: ArrayRecord, dimension: int, data: FederatedData
) -> Policy | None:
    """Return the policy that server and clients of a run agree on; None without secure aggregation.

    Args:
        experiment: The experiment.
        arrays: Of the model.
        dimension: Numbers in an update.
        data: Has the clients' numbers of examples.

    Raises:
        Refused: The model's updates can't be summed, or a client exceeds the largest weight.
    """
    section = experiment.privacy.secagg
    if section is None:
        return None
    check_float(experiment, arrays)
    records = data.training_sizes()
    if section.max_weight is not None and section.max_weight < records.max():
        raise Refused(
            f"privacy.secagg.max-weight = {section.max_weight}: must be at least {records.max()}, the most examples "
            "of a client"
        )
    return policy_of(experiment, dimension, records)


def secure_grid(
    grid: Grid,
    experiment: Experiment,
    policy: Policy,
    nodes: Mapping[int, int],
    label: int,
    deployment: ServerProcess | None,
) -> SecureGrid:
    """Return the Grid of a run; `label` identifies the run in the protocol.

    Raises:
        Refused: The adversary is a malicious server, and the server process has no keys of its clients.
    """
    secret = False
    if deployment is not None:
        secret = not deployment.loopback
        if policy.assumptions.malicious:
            policy = replace(policy, registry=deployment.identities())
    return SecureGrid(
        grid,
        policy,
        nodes=nodes,
        run=str(label),
        graph_seed=lambda round_: graph_entropy(experiment, round_, secret=secret)(32),
    )


def described_policy(experiment: Experiment, policy: Policy) -> dict[str, Any]:
    """Return the manifest's entry, for a cohort of `server.cohort` clients."""
    section = experiment.privacy.secagg
    if section is None:
        raise TypeError("the experiment has no [privacy.secagg]")
    return described(policy, section, experiment.server.cohort)
