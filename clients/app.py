"""The ClientApp: what a client answers to `train`, `evaluate` and `query` messages.

Under every engine, and deployed, a client is its partition: `partition-id` in its node config says which.
The experiment travels in the run config; data, model and settings are built from it once in a process and
used by all the clients that this process plays.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from clients.training import train
from fedsim.data import FederatedData, prepare
from fedsim.experiment import Experiment
from fedsim.models import initial_model, score
from fedsim.streams import as_torch_default, numpy_stream, torch_stream
from fedsim.threads import single_threaded

app = ClientApp()


@dataclass(frozen=True)
class Workbench:
    """What the clients of one process share; a client takes the model, loads weights into it, and gives it back."""

    experiment: Experiment
    data: FederatedData
    model: nn.Module

    def load(self, arrays: ArrayRecord) -> None:
        """Put the weights of a message into the model."""
        self.model.load_state_dict({name: torch.from_numpy(array.numpy()) for name, array in arrays.items()})


@functools.lru_cache(maxsize=2)
def _workbench(run_config: str) -> Workbench:
    experiment = Experiment.from_run_config(json.loads(run_config))
    data = prepare(experiment)
    return Workbench(experiment, data, initial_model(experiment, data.task))


def workbench(context: Context) -> Workbench:
    """Return this process's workbench for the run of a context."""
    return _workbench(json.dumps(context.run_config, sort_keys=True))


def client_index(context: Context) -> int:
    """Return which client this is."""
    return int(context.node_config["partition-id"])


@app.train()
def on_train(message: Message, context: Context) -> Message:
    """Train on the client's examples.

    The message holds `arrays` (the global model) and `config` (`server-round`, and what the strategy adds:
    `proximal-mu`, `initial-loss`). The reply holds `arrays` and `metrics`: `num-examples`, `train-loss`, and
    `initial-loss` if it was asked for.
    """
    bench, client, config = (
        workbench(context),
        client_index(context),
        message.content.config_records["config"],
    )
    round_ = int(config["server-round"])  # type: ignore[arg-type]
    seed, settings = bench.experiment.seed, bench.experiment.client
    examples = bench.data.client(client).train
    bench.load(message.content.array_records["arrays"])
    metrics = MetricRecord({"num-examples": len(examples)})
    if config.get("initial-loss"):
        metrics["initial-loss"] = score(bench.model, examples).loss
    dropout = torch_stream(seed, "dropout", round_=round_, client=client)
    with single_threaded(), as_torch_default(dropout):  # the same bits under any engine, fedsim's or not
        trained = train(
            bench.model,
            examples,
            settings,
            round_,
            numpy_stream(seed, "batches", round_=round_, client=client),
            float(config.get("proximal-mu", settings.proximal_mu)),  # type: ignore[arg-type]
        )
    metrics["train-loss"] = trained.loss
    arrays = ArrayRecord(bench.model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def on_evaluate(message: Message, context: Context) -> Message:
    """Evaluate the message's `arrays` on the client's held-out share; the reply's `metrics` say `num-examples`."""
    bench = workbench(context)
    examples = bench.data.client(client_index(context)).held_out
    metrics = MetricRecord({"num-examples": len(examples)})
    if len(examples):
        bench.load(message.content.array_records["arrays"])
        result = score(bench.model, examples)
        metrics.update(loss=result.loss, accuracy=result.accuracy, predictions=result.predictions)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query()
def on_query(message: Message, context: Context) -> Message:
    """Say which client this node is, so that a server that knows only node ids can tell."""
    return Message(
        RecordDict({"identity": ConfigRecord({"client": client_index(context)})}), reply_to=message
    )
