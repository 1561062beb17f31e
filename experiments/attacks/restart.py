"""A server runs the round again without the victim, and subtracts.

Each of the two sums is protected; their difference is the victim's update, with its weight.

Ours: a client gives one masked vector for a round of a run, and refuses to begin it again. (Over rounds the cohorts
differ too, with updates that have changed since. Against that helps differential privacy, not secure aggregation.)
"""

from __future__ import annotations

from experiments.attacks import flower
from experiments.attacks.finding import Finding, recovery

CONTROL = flower.FLOWER


def control() -> Finding:
    """Let Flower's server run round 1 with six clients, and round 1 again with five."""
    clients, cohort = flower.updates(), flower.cohort()
    weights = {node: client.examples for node, client in clients.items()}
    others = [node for node in clients if node != flower.VICTIM]
    every = cohort.round(flower.MODEL)
    again = cohort.round(flower.MODEL, among=others)
    if every.mean is None or again.mean is None:
        return Finding(False, f"halted: {every.log} {again.log}")
    total = sum(weights.values()) * every.mean - sum(weights[node] for node in others) * again.mean
    what = f"{len(again.client_errors)} clients object to the same round again; the victim's update"
    return recovery(what, total / weights[flower.VICTIM], clients[flower.VICTIM].vector, 4 * flower.TOLERANCE)
