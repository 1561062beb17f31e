"""A server reads what travels beside the masked vector.

How many examples a hospital has, and how high its loss is, is about that hospital alone.

Ours: the weight and the metrics are numbers of the masked vector, and the server learns their sums.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.attacks import flower
from experiments.attacks.finding import Finding, recovery
from experiments.benchmarks.flower_secagg import COLLECT, Cohort

CONTROL = flower.FLOWER


def control() -> Finding:
    """Read the victim's number of examples and its loss in an honest round."""
    clients = flower.updates()
    clients[flower.VICTIM] = replace(clients[flower.VICTIM], metrics={"loss": 1.234})
    outcome = Cohort(clients).round(flower.MODEL)
    reply = outcome.replies[COLLECT][flower.VICTIM]
    examples = reply.metric_records["fitres.num_examples"]["num_examples"]
    loss = reply.config_records["fitres.metrics"]["loss"]
    return recovery("number of examples and loss in clear", [examples, loss], [30, 1.234], 0.0)
