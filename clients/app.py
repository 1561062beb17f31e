"""The ClientApp: what a client answers to `train`, `evaluate` and `query` messages.

Under every engine, and deployed, a client is its partition: `partition-id` in its node config says which.
The experiment travels in the run config; data, model and settings are built from it once in a process and
used by all the clients that this process plays.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.algorithms import Job
from fedsim.arrays import record_of
from fedsim.clients.client_runtime import client_index, client_round, client_runtime
from fedsim.clients.discretion import discreet_mod
from fedsim.clients.fields import checked_changes, own_values, received_fields
from fedsim.clients.mods import faults_mod, fields_mod, nan_mod, protect_mod, secagg_mod, transform_mod
from fedsim.clients.process import note_released
from fedsim.clients.training import Trained, train
from fedsim.data.spec import SPEC
from fedsim.experiment import Experiment
from fedsim.privacy.events import Noise
from fedsim.records import find_record, record_in
from fedsim.streams import torch_draws_from, torch_draws_from_system
from fedsim.tasks.scoring import score
from fedsim.threads import single_threaded

app = ClientApp(mods=[discreet_mod])


@app.train(
    mods=[faults_mod, secagg_mod, fields_mod, protect_mod, transform_mod, nan_mod]
)  # the first is outermost
def on_train(message: Message, context: Context) -> Message:
    """Train on the client's examples.

    The message holds `arrays` (the global model) and `config` (`server-round`, and what the strategy adds:
    `proximal-mu`, `initial-loss`; with DP-SGD `noise-multiplier` where it was calibrated, and `ledger`, the file
    to note events in, where they have to be there first), and the algorithm's fields. The reply holds `arrays`, by how much
    each field changed, and `metrics`: `num-examples`,
    `train-loss`, and `initial-loss` if it was asked for; with DP-SGD also `ledger`, the `events` of the release,
    and losses, which are not part of it, only where the noise is seeded. `transform_mod` applies the
    experiment's transforms to the update, and `protect_mod` makes of this what may leave the client.
    """
    bench = client_runtime(context)
    config = record_in(message.content, ConfigRecord, "config")
    examples = bench.data.client(client_index(context)).train
    bench.load(record_in(message.content, ArrayRecord, "arrays"))
    metrics = MetricRecord({"num-examples": len(examples)})
    if config.get("initial-loss"):
        metrics["initial-loss"] = score(bench.model, bench.task, examples).loss
    at = client_round(context, config, len(examples))
    steps = bench.kernel.steps(*bench.task.tensors(examples), at)
    mu = float(config.get("proximal-mu", bench.experiment.client.proximal_mu))  # type: ignore[arg-type]
    rate = bench.learning_rate(at.round)
    reports: list[Trained] = []

    def play(after_step: Callable[[], None]) -> int:
        if reports:
            raise ValueError("all steps of this training have been played; a client trains once in a round")
        reports.append(train(bench.model, bench.optimizer(rate), steps, mu, after_step))
        return reports[-1].steps

    job = Job(
        parameters=bench.trained,
        fields=received_fields(message.content, bench.layout),
        own=own_values(context, bench.algorithm, bench.first_fields),
        learning_rate=rate,
        steps=play,
    )
    with single_threaded(), _masks(bench.experiment, at.round, at.client):  # the same bits under any engine
        changes = bench.algorithm.train(job)
    if not reports:
        raise ValueError(f"algorithm {type(bench.algorithm).__name__}: train() has not called job.train()")
    event = steps.event()
    changes = checked_changes(changes, bench.algorithm, bench.layout)
    fields = {name: record_of(arrays) for name, arrays in changes.items()}
    content = RecordDict({"arrays": bench.arrays(), **fields, "metrics": metrics})
    if event is not None:
        note_released(event, context, config)
        content["ledger"] = ConfigRecord({"events": [event.dumps()]})
    if event is None or event.noise is Noise.SEEDED:
        metrics["train-loss"] = reports[0].loss
    return Message(content, reply_to=message)


def _masks(experiment: Experiment, round_: int, client: int) -> AbstractContextManager[None]:
    """Return the block in which a model's dropout, and an optimizer, draw: from a stream of the seed, or what nobody knows.

    A mask belongs to a place in a batch, and a record that is not there moves the others to other places: whoever
    knows the masks sees more of that than clipping bounds.
    """
    if not (experiment.model.entry.draws or experiment.client.optimizer_entry.draws):
        return nullcontext()
    if Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return torch_draws_from_system()
    return torch_draws_from(experiment.seed, "dropout", round_=round_, client=client)


@app.evaluate()
def on_evaluate(message: Message, context: Context) -> Message:
    """Evaluate the message's `arrays` on the client's held-out share; the reply's `metrics` say `num-examples`."""
    bench = client_runtime(context)
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
    client_runtime(context)
    return Message(
        RecordDict({"identity": ConfigRecord({"client": client_index(context)})}), reply_to=message
    )
