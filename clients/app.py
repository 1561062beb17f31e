"""The ClientApp: what a client answers to `train`, `evaluate` and `query` messages.

Under every engine, and deployed, a client is its partition: `partition-id` in its node config says which.
The experiment travels in the run config; data, model and settings are built from it once in a process and
used by all the clients that this process plays.
"""

from __future__ import annotations

from contextlib import nullcontext

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.mods.faults import faults_mod
from clients.training import train
from clients.workbench import workbench
from fedsim.models import score
from fedsim.streams import numpy_stream, torch_draws_from
from fedsim.threads import single_threaded

app = ClientApp()


def client_index(context: Context) -> int:
    """Return which client this is."""
    return int(context.node_config["partition-id"])


@app.train(mods=[faults_mod])
def on_train(message: Message, context: Context) -> Message:
    """Train on the client's examples.

    The message holds `arrays` (the global model) and `config` (`server-round`, and what the strategy adds:
    `proximal-mu`, `initial-loss`). The reply holds `arrays` and `metrics`: `num-examples`, `train-loss`, and
    `initial-loss` if it was asked for.
    """
    bench, client = workbench(context), client_index(context)
    config = message.content.config_records["config"]
    round_ = int(config["server-round"])  # type: ignore[arg-type]
    seed, settings = bench.experiment.seed, bench.experiment.client
    examples = bench.data.client(client).train
    bench.load(message.content.array_records["arrays"])
    bench.optimizer.begin(round_)
    metrics = MetricRecord({"num-examples": len(examples)})
    if config.get("initial-loss"):
        metrics["initial-loss"] = score(bench.model, examples).loss
    draws = bench.experiment.model.entry.draws
    dropout = torch_draws_from(seed, "dropout", round_=round_, client=client) if draws else nullcontext()
    with single_threaded(), dropout:  # the same bits under any engine, fedsim's or not
        trained = train(
            bench.model,
            bench.optimizer,
            examples,
            settings,
            numpy_stream(seed, "batches", round_=round_, client=client),
            float(config.get("proximal-mu", settings.proximal_mu)),  # type: ignore[arg-type]
        )
    metrics["train-loss"] = trained.loss
    return Message(RecordDict({"arrays": bench.arrays(), "metrics": metrics}), reply_to=message)


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
