"""The ServerApp: a round loop of its own over push, pull, and send and receive.

Flower's node ids are random, so nodes are asked for their partition first and all sums go by partition.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from torch_app.task import build

app = ServerApp()


@app.lifespan()
def lifespan(context: Context) -> Iterator[None]:
    context.state["started"] = MetricRecord({"times": 1})
    yield


def all_replies(grid: Grid, messages: list[Message]) -> list[Message]:
    """Push messages, and pull until each has its reply."""
    waiting = set(grid.push_messages(messages))
    replies: list[Message] = []
    end = time.monotonic() + 120
    while waiting:
        assert time.monotonic() < end, f"no replies to {waiting}"
        came = list(grid.pull_messages(waiting))
        replies += came
        waiting -= {reply.metadata.reply_to_message_id for reply in came}
        time.sleep(0.01)
    return replies


def nodes_by_partition(grid: Grid) -> dict[int, int]:
    replies = grid.send_and_receive(
        [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]
    )
    nodes = {reply.content["who"]["partition-id"]: reply.metadata.src_node_id for reply in replies}
    assert {reply.content["who"]["num-partitions"] for reply in replies} == {len(nodes)}
    return dict(sorted(nodes.items()))


@app.main()
def main(grid: Grid, context: Context) -> None:
    nodes = nodes_by_partition(grid)
    partition = {node: client for client, node in nodes.items()}
    weights, losses, right, errors = build().state_dict(), [], [], 0
    for round_ in range(1, context.run_config["rounds"] + 1):
        content = RecordDict({"arrays": ArrayRecord(weights)})
        # An odd round leaves the last partition out, so that the clients' states differ.
        chosen = list(nodes.values())[: len(nodes) - round_ % 2]
        messages = [
            Message(content, node, MessageType.TRAIN, ttl=600.0, group_id=f"{round_}") for node in chosen
        ]
        replies = sorted(all_replies(grid, messages), key=lambda r: partition[r.metadata.src_node_id])
        assert {reply.metadata.group_id for reply in replies} == {f"{round_}"}
        sizes = [reply.content["metrics"]["num-examples"] for reply in replies]
        models = [reply.content["arrays"].to_torch_state_dict() for reply in replies]
        weights = {
            name: torch.stack([n * m[name].double() for n, m in zip(sizes, models, strict=True)])
            .sum(dim=0)
            .div(sum(sizes))
            .float()
            for name in weights
        }
        losses.append([reply.content["metrics"]["loss"] for reply in replies])
        content = RecordDict({"arrays": ArrayRecord(weights)})
        scored = list(
            grid.send_and_receive([Message(content, node, "evaluate.accuracy") for node in nodes.values()])
        )
        errors += sum(reply.has_error() for reply in scored)
        right.append(sum(reply.content["metrics"]["right"] for reply in scored if reply.has_content()))
    told = grid.send_and_receive([Message(RecordDict(), node, "query.history") for node in nodes.values()])
    history = sorted((partition[r.metadata.src_node_id], r.content) for r in told)
    np.savez(
        context.run_config["out"],
        **{name: tensor.numpy() for name, tensor in weights.items()},
        losses=np.concatenate(losses),
        right=right,
        errors=errors,
        trained=[content["counts"]["train"] for _, content in history],
        evaluated=[content["counts"].get("evaluate.accuracy", 0) for _, content in history],
        begun=[content["calls"]["begun"] for _, content in history],
        ended=[content["calls"]["ended"] for _, content in history],
        started=context.state["started"]["times"],
    )
