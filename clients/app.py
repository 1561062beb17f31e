"""The ClientApp: what a client answers to `train`, `evaluate` and `query` messages.

Under every engine, and deployed, a client is its partition: `partition-id` in its node config says which.
The experiment travels in the run config; data, model and settings are built from it once in a process and
used by all the clients that this process plays.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.clients.discretion import discreet_mod
from fedsim.clients.mods import clip_mod, faults_mod, local_noise_mod, nan_mod, secagg_mod
from fedsim.clients.private_training import train_privately
from fedsim.clients.training import Trained, train
from fedsim.clients.workbench import Workbench, client_index, workbench
from fedsim.data import Examples
from fedsim.data.spec import SPEC
from fedsim.experiment import Experiment
from fedsim.privacy.events import Event, Noise
from fedsim.records import find_record, record_in
from fedsim.streams import numpy_stream, torch_draws_from, torch_draws_from_system
from fedsim.tasks.scoring import score
from fedsim.threads import single_threaded

app = ClientApp(mods=[discreet_mod])


@app.train(mods=[faults_mod, secagg_mod, clip_mod, local_noise_mod, nan_mod])  # the first is outermost
def on_train(message: Message, context: Context) -> Message:
    """Train on the client's examples.

    The message holds `arrays` (the global model) and `config` (`server-round`, and what the strategy adds:
    `proximal-mu`, `initial-loss`; with DP-SGD `noise-multiplier` where it was calibrated, and `ledger`, the file
    to note events in, where they have to be there first). The reply holds `arrays` and `metrics`: `num-examples`,
    `train-loss`, and `initial-loss` if it was asked for; with DP-SGD also `ledger`, the `events` of the release,
    and losses, which are not part of it, only where the noise is seeded. The mods of client-level privacy make of
    this what may leave the client.
    """
    bench = workbench(context)
    config = record_in(message.content, ConfigRecord, "config")
    examples = bench.data.client(client_index(context)).train
    bench.load(record_in(message.content, ArrayRecord, "arrays"))
    bench.optimizer.begin(int(config["server-round"]))  # type: ignore[arg-type]
    metrics = MetricRecord({"num-examples": len(examples)})
    if config.get("initial-loss"):
        metrics["initial-loss"] = score(bench.model, bench.task, examples).loss
    trained, event = _train(bench, examples, config, context)
    content = RecordDict({"arrays": bench.arrays(), "metrics": metrics})
    if event is not None:
        content["ledger"] = ConfigRecord({"events": [event.dumps()]})
    if event is None or event.noise is Noise.SEEDED:
        metrics["train-loss"] = trained.loss
    return Message(content, reply_to=message)


def _train(
    bench: Workbench, examples: Examples, config: ConfigRecord, context: Context
) -> tuple[Trained, Event | None]:
    """Train the workbench's model, by DP-SGD if the experiment says so; the event is that of the release."""
    client = client_index(context)
    seed, round_ = bench.experiment.seed, int(config["server-round"])  # type: ignore[arg-type]
    with single_threaded(), _masks(bench.experiment, round_, client):  # the same bits under any engine
        if bench.gradient is not None:
            return train_privately(bench, bench.gradient, examples, config, context)
        trained = train(
            bench.model,
            bench.task,
            bench.optimizer,
            examples,
            bench.experiment.client,
            numpy_stream(seed, "batches", round_=round_, client=client),
            float(config.get("proximal-mu", bench.experiment.client.proximal_mu)),  # type: ignore[arg-type]
        )
        return trained, None


def _masks(experiment: Experiment, round_: int, client: int) -> AbstractContextManager[None]:
    """Return the block in which a model's dropout draws: from a stream of the seed, or what nobody knows.

    A mask belongs to a place in a batch, and a record that is not there moves the others to other places: whoever
    knows the masks sees more of that than clipping bounds.
    """
    if not experiment.model.entry.draws:
        return nullcontext()
    if Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return torch_draws_from_system()
    return torch_draws_from(experiment.seed, "dropout", round_=round_, client=client)


@app.evaluate()
def on_evaluate(message: Message, context: Context) -> Message:
    """Evaluate the message's `arrays` on the client's held-out share; the reply's `metrics` say `num-examples`."""
    bench = workbench(context)
    examples = bench.data.client(client_index(context)).held_out
    metrics = MetricRecord({"num-examples": len(examples)})
    if len(examples):
        bench.load(record_in(message.content, ArrayRecord, "arrays"))
        result = score(bench.model, bench.task, examples)
        own = {m.name: result.metrics[m.name] for m in bench.task.metrics if m.by_client}
        metrics.update({"loss": result.loss, **own, "predictions": result.predictions})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query()
def on_query(message: Message, context: Context) -> Message:
    """Say which client this node is, so that a server that knows only node ids can tell.

    A client that couldn't take part says why instead: its experiment and its data are looked at first. The message
    may hold a record `data`, which says what the run's data is made of, for clients that bring their own.
    """
    spec = find_record(message.content, ConfigRecord, SPEC)
    if spec is not None:
        context.state[SPEC] = spec
    workbench(context)
    return Message(
        RecordDict({"identity": ConfigRecord({"client": client_index(context)})}), reply_to=message
    )
