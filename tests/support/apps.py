"""ClientApps for the tests: one that misbehaves by client, two with per-client state, one of them with a mod.

None loads PyTorch, which takes a worker process longer than all else that it does for a test.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

faulty = ClientApp()

REASONS = {
    1: "RuntimeError: out of luck",
    2: "sent NaN or infinity in w",
    3: "sent w with shape (2,), not (3,)",
    4: "sent other arrays than the model has: v, w",
    5: "sent NaN or infinity as train-loss",
    6: "reported no num-examples above 0",
    7: "sent w as float64, not float32",
    8: "sent 0 array records and 1 metric records, not one of each",
}


@faulty.train()
def misbehave(message: Message, context: Context) -> Message:
    """Clients 1 to 8 fail as `REASONS` says; the others add their number to the weights."""
    client = int(context.node_config["partition-id"])
    w = message.content.array_records["arrays"]["w"].numpy() + np.float32(client)
    if client == 1:
        raise RuntimeError("out of luck")
    w = {2: w * np.float32("nan"), 3: w[:2], 7: w.astype(np.float64)}.get(client, w)
    metrics = {
        "num-examples": 0 if client == 6 else 10,
        "train-loss": float("nan") if client == 5 else float(client),
    }
    content = RecordDict({"metrics": MetricRecord(metrics)})
    if client != 8:
        content["arrays"] = ArrayRecord({"v" if client == 4 else "w": Array(w)})
    return Message(content, reply_to=message)


def count(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count the messages that pass, in the client's state."""
    passed = context.state.config_records.setdefault("count", ConfigRecord({"messages": 0}))
    passed["messages"] = int(passed["messages"]) + 1  # type: ignore[arg-type]
    return call_next(message, context)


stateful = ClientApp(mods=[count])


@stateful.query()
def tell(message: Message, context: Context) -> Message:
    """Tell how many messages this client has seen, and in which process."""
    told = {"messages": int(context.state.config_records["count"]["messages"]), "process": os.getpid()}  # type: ignore[arg-type]
    return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)


@stateful.query("die")
def die(message: Message, context: Context) -> Message:
    """Kill this process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@stateful.query("die_once")
def die_once(message: Message, context: Context) -> Message:
    """Kill this process the first time that any client comes here; the message names a file to remember it by."""
    mark = Path(str(message.content.config_records["config"]["mark"]))
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return tell(message, context)


@stateful.query("add")
def add(message: Message, context: Context) -> Message:
    """Send the message's array with this client's number added, and change the message for later clients."""
    client = int(context.node_config["partition-id"])
    arrays = message.content.array_records["arrays"]
    w = arrays["w"].numpy()
    w += client
    message.content.array_records["arrays"] = ArrayRecord({"w": Array(np.full(3, np.nan))})
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(w)})}), reply_to=message)


@stateful.query("remember")
def remember(message: Message, context: Context) -> Message:
    """Keep the message's array in the client's state, after sending what was kept before; client 3 then raises."""
    kept = context.state.array_records.get("kept", ArrayRecord())
    context.state["kept"] = message.content.array_records["arrays"]
    if int(context.node_config["partition-id"]) == 3:
        raise RuntimeError("too late")
    return Message(RecordDict({"kept": kept}), reply_to=message)


@stateful.query("sleep")
def sleep(message: Message, context: Context) -> Message:
    """Answer after ten seconds."""
    time.sleep(10)
    return Message(RecordDict(), reply_to=message)


drifting = ClientApp()


@drifting.query()
def drifter(message: Message, context: Context) -> Message:
    """Say which client this is."""
    client = int(context.node_config["partition-id"])
    return Message(RecordDict({"identity": ConfigRecord({"client": client})}), reply_to=message)


@drifting.evaluate()
def say(message: Message, context: Context) -> Message:
    """Say a tenth of this client's number for its accuracy."""
    client = int(context.node_config["partition-id"])
    metrics = {"num-examples": 10, "loss": 1.0, "accuracy": client / 10}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


@drifting.train()
def drift(message: Message, context: Context) -> Message:
    """Move the weights further each time: by what this client remembers of its own former moves."""
    client = int(context.node_config["partition-id"])
    received = message.content.array_records["arrays"]
    rounds = context.state.metric_records.setdefault("rounds", MetricRecord({"trained": 0}))
    rounds["trained"] = int(rounds["trained"]) + 1  # type: ignore[arg-type]
    moves = context.state.array_records.get("moves")
    moved = {
        name: (0.5 * moves[name].numpy() if moves else 0) + np.float32((client + 1) / 64) * np.sign(w.numpy())
        for name, w in received.items()
    }
    context.state["moves"] = ArrayRecord({name: Array(move) for name, move in moved.items()})
    arrays = ArrayRecord({name: Array(w.numpy() + moved[name]) for name, w in received.items()})
    metrics = MetricRecord({"num-examples": 10, "train-loss": float(rounds["trained"])})  # type: ignore[arg-type]
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
