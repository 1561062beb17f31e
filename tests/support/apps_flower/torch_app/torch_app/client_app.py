"""The ClientApp: an optimiser that remembers its momentum between rounds, and two mods."""

from collections.abc import Iterator

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from torch import nn

from torch_app.task import build, load_data


def count(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count the messages of each kind, in the node's state."""
    counts = context.state.config_records.setdefault("counts", ConfigRecord())
    kind = message.metadata.message_type
    counts[kind] = counts.get(kind, 0) + 1
    return call_next(message, context)


def clip(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the update to the run config's norm."""
    reply = call_next(message, context)
    before, after = (m.content["arrays"].to_torch_state_dict() for m in (message, reply))
    update = {name: after[name] - before[name] for name in before}
    norm = torch.cat([u.flatten() for u in update.values()]).norm()
    scale = min(1.0, context.run_config["clip-norm"] / float(norm))
    reply.content["arrays"] = ArrayRecord({name: before[name] + scale * update[name] for name in before})
    return reply


app = ClientApp(mods=[count])


@app.lifespan()
def lifespan(context: Context) -> Iterator[None]:
    calls = context.state.config_records.setdefault("calls", ConfigRecord({"begun": 0, "ended": 0}))
    calls["begun"] += 1
    yield
    calls["ended"] += 1


@app.train(mods=[clip])
def fit(message: Message, context: Context) -> Message:
    model = build()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), context.run_config["learning-rate"], momentum=0.9)
    kept = context.state.array_records.get("momentum")
    for parameter, (name, _) in zip(model.parameters(), model.named_parameters(), strict=True):
        if kept is not None:
            optimizer.state[parameter]["momentum_buffer"] = torch.from_numpy(kept[name].numpy().copy())
    x, y = load_data(context.node_config["partition-id"])
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    context.state["momentum"] = ArrayRecord(
        {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters()}
    )
    metrics = MetricRecord({"num-examples": len(x), "loss": loss.item()})
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
    )


@app.query()
def identify(message: Message, context: Context) -> Message:
    who = ConfigRecord({key: context.node_config[key] for key in ("partition-id", "num-partitions")})
    return Message(RecordDict({"who": who}), reply_to=message)


@app.query("history")
def history(message: Message, context: Context) -> Message:
    return Message(
        RecordDict({"counts": context.state["counts"], "calls": context.state["calls"]}), reply_to=message
    )


@app.evaluate("accuracy")
def accuracy(message: Message, context: Context) -> Message:
    if context.node_config["partition-id"] == 1:
        raise RuntimeError("partition 1 does not evaluate")
    model = build()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = load_data(context.node_config["partition-id"])
    right = int((model(x).argmax(dim=1) == y).sum())
    return Message(
        RecordDict({"metrics": MetricRecord({"right": right, "examples": len(x)})}), reply_to=message
    )
