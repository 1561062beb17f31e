"""The ServerApp.

Flower's node ids are random and replies come in any order, so the strategy takes all nodes and sums by
partition: the result is the same, bit for bit, wherever the app runs.
"""

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from numpy_app.task import FEATURES

app = ServerApp()


def by_partition(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.content["metrics"]["partition-id"])


class OrderedFedAvg(FedAvg):
    """FedAvg that sums in the order of the partitions."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return super().aggregate_train(server_round, by_partition(replies))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return super().aggregate_evaluate(server_round, by_partition(replies))


@app.main()
def main(grid: Grid, context: Context) -> None:
    result = OrderedFedAvg().start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(FEATURES)]),
        num_rounds=context.run_config["num-server-rounds"],
    )
    (w,) = result.arrays.to_numpy_ndarrays()
    errors = [metrics["error"] for _, metrics in sorted(result.evaluate_metrics_clientapp.items())]
    np.savez(context.run_config["out"], w=w, errors=errors)
    print("saved the final model")
