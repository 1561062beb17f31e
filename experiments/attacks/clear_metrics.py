"""A server reads values sent beside the masked vector.

How many examples a hospital has, and how high its loss is, is about that hospital alone.

Ours: the weight and the metrics are part of the masked vector, and the server learns their sums.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.benchmarks.flower_secagg import COLLECT, Cohort
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.topology import Adversary

CONTROL = flower.FLOWER
LOSS = 1.234


def control() -> Finding:
    """Read the victim's number of examples and its loss in an honest round."""
    clients = flower.updates()
    clients[flower.VICTIM] = replace(clients[flower.VICTIM], metrics={"loss": LOSS})
    outcome = Cohort(clients).round(flower.MODEL)
    reply = outcome.replies[COLLECT][flower.VICTIM]
    examples = reply.metric_records["fitres.num_examples"]["num_examples"]
    loss = reply.config_records["fitres.metrics"]["loss"]
    return recovery("number of examples and loss in clear", [examples, loss], [30, LOSS], 0.0)


def ours(adversary: Adversary) -> Finding:
    """Look for the victim's weight and loss in every byte that the server receives."""
    rule = sessions.policy(adversary, metrics=("loss",))
    clients = {c: replace(u, metrics={"loss": float(c)}) for c, u in sessions.updates().items()}
    clients[sessions.VICTIM] = replace(clients[sessions.VICTIM], metrics={"loss": LOSS})
    server = ServerSession(sessions.spec_of(rule), sessions.CLIENTS, registry=rule.registry)
    outcome = sessions.run(server, sessions.parties(rule, clients))
    received = [b"".join(replies.values()) for replies in outcome.replies.values()]
    plain = [struct.pack(order + "d", LOSS) for order in "<>"]
    plain += [struct.pack(order + "q", clients[sessions.VICTIM].examples) for order in "<>"]
    if any(each in stage for each in plain for stage in received):
        return Finding(True, "the victim's weight or loss is in what the server receives")
    found = sessions.mean_of(server)
    return Finding(
        False,
        f"all that the server gets: weights sum to {found.weight}, mean loss {found.metrics['loss']:.4f}",
    )
