"""A server sends all clients a crafted model with a gradient that contains their records.

In an imprinting layer each unit sums the inputs with a brightness above the unit's threshold. The gradients of
adjacent units differ by the records between their thresholds, and with enough units that is one record, also in the
sum over all clients (Fowl, Geiping, Czaja, Goldblum, Goldstein: "Robbing the Fed", ICLR 2022).

Ours: not prevented, in either mode. Secure aggregation hides individual contributions, not what the sum reveals.
Defences are differential privacy, and clients that accept only known architectures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.benchmarks.flower_secagg import Cohort, Update
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.topology import Adversary
from fedsim.streams import numpy_stream

CONTROL = flower.FLOWER
INPUTS, UNITS, RECORDS = 8, 200, 2


def records(client: int) -> NDArray[np.float64]:
    """Return a client's records, of shape (RECORDS, INPUTS), in [0, 1)."""
    return numpy_stream(0, "pictures", client=client).uniform(size=(RECORDS, INPUTS))


def thresholds() -> NDArray[np.float64]:
    """Return each unit's brightness (the mean of a record), of shape (UNITS,), ascending."""
    return np.arange(UNITS, dtype=np.float64) / UNITS


def gradient(client: int) -> NDArray[np.float64]:
    """Return the gradient of the sum of the units' outputs: for each unit its weights' and its bias's.

    Shape (UNITS, INPUTS + 1): the sum of the records brighter than the unit's threshold, and their number.
    """
    x = records(client)
    passes = (x.mean(axis=1) > thresholds()[:, None]).astype(np.float64)
    made: NDArray[np.float64] = passes @ np.column_stack([x, np.ones(len(x))])
    return made


def read(total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the records that are alone between two thresholds, from a sum of gradients; shape (found, INPUTS)."""
    between = total[:-1] - total[1:]
    return between[np.abs(between[:, -1] - 1) < 0.1, :-1]


def compare(total: NDArray[np.float64], clients: Sequence[int]) -> Finding:
    """Return the clients' records found in a sum of their gradients."""
    true = np.concatenate([records(node) for node in clients])
    found = read(total)
    if not len(found):
        return Finding(False, "no record found")
    nearest = true[np.abs(found[:, None] - true[None]).sum(-1).argmin(1)]
    return recovery(f"{len(found)} of {len(true)} records of {len(clients)} clients", found, nearest, 0.01)


def control() -> Finding:
    """Average the gradients at the crafted model by Flower's SecAgg+."""
    clients = {node: Update(gradient(node).ravel(), 1000) for node in flower.NODES}
    outcome = Cohort(clients).round(flower.MODEL)
    if outcome.mean is None:
        return Finding(False, f"halted: {outcome.log}")
    return compare(outcome.mean.reshape(UNITS, INPUTS + 1) * len(clients), flower.NODES)


def ours(adversary: Adversary) -> Finding:
    """Average the gradients at the crafted model by this project's protocol."""
    rule = sessions.policy(adversary, UNITS * (INPUTS + 1), max_weight=1)
    clients = {client: Update(gradient(client).ravel()) for client in sessions.CLIENTS}
    server = ServerSession(sessions.spec_of(rule), sessions.CLIENTS, registry=rule.registry)
    outcome = sessions.run(server, sessions.parties(rule, clients))
    if outcome.refused:
        return sessions.refused(outcome)
    mean = sessions.mean_of(server).update.reshape(UNITS, INPUTS + 1)
    return compare(mean * len(clients), sessions.CLIENTS)
