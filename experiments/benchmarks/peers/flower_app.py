"""The work as a Flower app, like Flower's own PyTorch quickstart: a ServerApp with FedAvg, a ClientApp.

Faster than the quickstart in one point: a client slices mapped arrays and needs no DataLoader.
"""

from __future__ import annotations

import functools
from collections import OrderedDict

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from fedsim.experiments.benchmarks.peers.clock import Clock
from fedsim.experiments.benchmarks.peers.network import central_loss, count, network, train
from fedsim.experiments.benchmarks.work import Report, Work


@functools.cache
def _clients(path: str) -> tuple[Work, Tensor, Tensor]:
    work = Work.load(path)
    x, y = work.clients()
    return work, torch.from_numpy(x), torch.from_numpy(y)


def make_client_app(path: str) -> ClientApp:
    """Return the ClientApp for the work of a file."""
    app = ClientApp()

    @app.train()
    def on_train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        work, x, y = _clients(path)
        client = int(context.node_config["partition-id"])
        round_ = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        model = network()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=work.case.learning_rate)
        shuffle = work.stream(1, round_, client)
        loss = train(model, optimizer, x[client], y[client], work.case.batch, shuffle)
        metrics = MetricRecord({"train-loss": loss, "num-examples": len(y[client])})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def make_server_app(path: str, report: str, versions: dict[str, str]) -> ServerApp:
    """Return the ServerApp that does the work of a file, and writes a report.

    A round ends when Flower calls the server's evaluation with its model, which notes the time.
    """
    work = Work.load(path)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        model = network(work.weights())
        clock = Clock()
        strategy = FedAvg(
            fraction_train=work.case.cohort / work.case.clients,
            fraction_evaluate=0.0,
            min_train_nodes=work.case.cohort,
            min_available_nodes=work.case.clients,
        )
        result = strategy.start(
            grid,
            ArrayRecord(model.state_dict()),
            num_rounds=work.rounds,
            evaluate_fn=lambda round_, arrays: clock.lap() if round_ else clock.start(),
        )
        failed = [r for r in range(1, work.rounds + 1) if r not in result.train_metrics_clientapp]
        if failed:
            raise RuntimeError(f"no client came back in round {failed[0]}")
        model.load_state_dict(OrderedDict(result.arrays.to_torch_state_dict()))
        Report(clock.began, clock.seconds, central_loss(model, work), count(model), versions).save(report)

    return app
