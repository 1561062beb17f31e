"""ClientApps for the tests of secure aggregation in Flower, that need no experiment."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.clients.mods.secagg import Participant, secure
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.primitives import SigningKey
from fedsim.privacy.secagg.spec import Policy
from fedsim.privacy.secagg.topology import Adversary, Assumptions

POLICY = Policy(
    assumptions=Assumptions(corrupt=0.1, dropout=0.4),
    encoding=Encoding(3, cohort=1, max_weight=16, metrics=("train-loss",)),
)


def identity(client: int) -> bytes:
    return hashlib.sha256(f"identity {client}".encode()).digest()


def identity_policy(clients: int) -> Policy:
    """Return the policy against a malicious server, with everyone's identity."""
    return dataclasses.replace(
        POLICY,
        assumptions=Assumptions(corrupt=0.1, dropout=0.2, adversary=Adversary.MALICIOUS_SERVER),
        registry={client: SigningKey(identity(client)).public for client in range(clients)},
    )


def by_partition(context: Context) -> Participant:
    return _participant(int(context.node_config["partition-id"]), context)


def by_node(context: Context) -> Participant:
    return _participant(context.node_id, context)


def _participant(number: int, context: Context) -> Participant:
    key = number % 2**63
    mode: Any = context.run_config.get("mode", "real")
    return Participant(
        policy=dataclasses.replace(POLICY, mode=mode),
        number=number,
        run=str(context.run_id),
        rounding=lambda round_: np.random.Generator(np.random.Philox(key=[key, round_])),
    )


def by_identity(context: Context) -> Participant:
    plain = by_partition(context)
    policy = identity_policy(int(context.node_config["num-partitions"]))
    return dataclasses.replace(plain, policy=policy, identity=identity(plain.number))


def update_of(client: int) -> np.ndarray:
    """Return what a client adds to the model."""
    return np.array([0.5, -0.25, 1.0], np.float32) * np.float32(client % 7 - 3) / 4


def move(message: Message, context: Context) -> Message:
    """Add this client's update; client 5 raises, 6 returns NaN, 8 weighs too much."""
    client = int(context.node_config["partition-id"])
    if client == 5:
        raise RuntimeError(f"the secret of client {client}")
    w = message.content.array_records["arrays"]["w"].numpy() + update_of(client)
    w = w * np.float32("nan") if client == 6 else w
    metrics = {"num-examples": 17 if client == 8 else client % 4 + 1, "train-loss": client / 8}
    content = RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": MetricRecord(metrics)})  # type: ignore[arg-type]
    content["ledger"] = ConfigRecord({"events": [f"an event of client {client}"]})
    return Message(content, reply_to=message)


secured = ClientApp()
secured.train(mods=[secure(by_partition)])(move)

identified = ClientApp()
identified.train(mods=[secure(by_identity)])(move)

by_nodes = ClientApp()
by_nodes.train(mods=[secure(by_node)])(move)


@secured.query()
def tell(message: Message, context: Context) -> Message:
    """Tell what is in this client's state."""
    ledger = context.state.config_records.get("ledger", ConfigRecord({"events": []}))
    told = {"records": sorted(context.state), "events": list(ledger["events"]), "process": os.getpid()}  # type: ignore[arg-type]
    return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)
