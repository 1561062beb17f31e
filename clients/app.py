"""The ClientApp: answers `train`, `evaluate` and `query` messages.

A client's number is `partition-id` in its node config, in every engine and deployed. The experiment is in the run
config. Data, model and settings are built from it once in a process, and shared by all of the process's clients.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.algorithms import Job
from fedsim.arrays import record_of
from fedsim.clients.client_runtime import client_index, client_round, client_runtime
from fedsim.clients.mods import faults_mod, fields_mod, nan_mod, protect_mod, secagg_mod, transform_mod
from fedsim.clients.mods.fields import checked_changes, own_values, received_fields
from fedsim.clients.private_output import private_output_mod
from fedsim.clients.process import note_released
from fedsim.clients.training import Trained, train
from fedsim.data.spec import SPEC
from fedsim.experiment import Experiment
from fedsim.privacy.events import Noise
from fedsim.privacy.halves import ClientRound
from fedsim.records import find_record, record_in
from fedsim.schedules.rate import learning_rate
from fedsim.streams import all_draws_from, all_draws_from_system
from fedsim.tasks.scoring import score
from fedsim.threads import single_threaded

app = ClientApp(mods=[private_output_mod])


@app.train(
    mods=[faults_mod, secagg_mod, fields_mod, protect_mod, transform_mod, nan_mod]
)  # the first is outermost
def on_train(message: Message, context: Context) -> Message:
    """Train on the client's examples.

    The message holds `arrays` (the global model), the algorithm's fields, and `config`: `server-round`, the
    strategy's `proximal-mu` and `initial-loss`; with DP-SGD a calibrated `noise-multiplier`, and `ledger`, a file
    that must hold the events before the reply is sent.

    The reply holds `arrays`, the change of each field, and `metrics`: `num-examples`, `train-loss`, and
    `initial-loss` if requested. With DP-SGD it holds `ledger`, the `events` of the release, and losses only if the
    noise is seeded, since they are not part of the release. `transform_mod` applies the experiment's transforms to
    the update, and `protect_mod` the mechanism's protection.
    """
    runtime = client_runtime(context)
    config = record_in(message.content, ConfigRecord, "config")
    examples = runtime.data.client(client_index(context)).train
    runtime.load(record_in(message.content, ArrayRecord, "arrays"))
    runtime.check_constants(config)
    metrics = MetricRecord({"num-examples": len(examples)})
    if config.get("initial-loss"):
        with _evaluation_randomness(runtime.experiment, context):
            metrics["initial-loss"] = score(runtime.model, runtime.task, examples).loss
    at = client_round(context, config, len(examples))
    steps = runtime.kernel.steps(*runtime.task.tensors(examples), at)
    mu = float(config.get("proximal-mu", runtime.experiment.client.proximal_mu))  # type: ignore[arg-type]
    rate = learning_rate(runtime.experiment.client, runtime.experiment.rounds, at.round)
    reports: list[Trained] = []

    def run_steps(after_step: Callable[[], None]) -> int:
        if reports:
            raise ValueError("all steps of this training have been taken; a client trains once in a round")
        reports.append(train(runtime.model, runtime.optimizer(rate), steps, mu, after_step))
        return reports[-1].steps

    job = Job(
        parameters=runtime.trained,
        fields=received_fields(message.content, runtime.layout),
        own=own_values(context, runtime.algorithm, runtime.first_fields),
        learning_rate=rate,
        steps=run_steps,
    )
    with single_threaded(), _training_randomness(runtime.experiment, at):  # the same bits under any engine
        changes = runtime.algorithm.train(job)
    if not reports:
        raise ValueError(f"algorithm {type(runtime.algorithm).__name__}: train() has not called job.train()")
    event = steps.event()
    changes = checked_changes(changes, runtime.algorithm, runtime.layout)
    fields = {name: record_of(arrays) for name, arrays in changes.items()}
    content = RecordDict({"arrays": runtime.arrays(), **fields, "metrics": metrics})
    if event is not None:
        note_released(event, context, config)
        content["ledger"] = ConfigRecord({"events": [event.dumps()]})
    if event is None or event.noise is Noise.SEEDED:
        metrics["train-loss"] = reports[0].loss
    return Message(content, reply_to=message)


def _training_randomness(experiment: Experiment, at: ClientRound) -> AbstractContextManager[None]:
    """Return the context in which a user's model, dropout and an optimizer draw: from a stream of the seed, or secretly.

    Dropout masks depend on a record's position in its batch, and a missing record shifts the others. So an adversary
    that knows the masks may learn more about the record than clipping bounds.
    """
    if not (experiment.model.entry.draws or experiment.client.optimizer_entry.draws):
        return nullcontext()
    if Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return all_draws_from_system()
    return all_draws_from(experiment.seed, "dropout", round_=at.round, client=at.client)


def _evaluation_randomness(experiment: Experiment, context: Context) -> AbstractContextManager[None]:
    """Return the context in which a model draws in an evaluation: the same numbers in every one of a client."""
    if not experiment.model.entry.draws:
        return nullcontext()
    return all_draws_from(experiment.seed, "evaluation", client=client_index(context))


@app.evaluate()
def on_evaluate(message: Message, context: Context) -> Message:
    """Evaluate the message's `arrays` on the client's held-out share; the reply holds `metrics` with `num-examples`."""
    runtime = client_runtime(context)
    examples = runtime.data.client(client_index(context)).held_out
    metrics = MetricRecord({"num-examples": len(examples)})
    if len(examples):
        runtime.load(record_in(message.content, ArrayRecord, "arrays"))
        with _evaluation_randomness(runtime.experiment, context):
            result = score(runtime.model, runtime.task, examples)
        own = {m.name: result.metrics[m.name] for m in runtime.task.metrics if m.by_client}
        metrics.update({"loss": result.loss, **own, "predictions": result.predictions})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query()
def on_query(message: Message, context: Context) -> Message:
    """Return this node's client, for servers that know only node ids.

    The client first checks its experiment and data, and answers with the error if it can't take part. For clients that
    bring their own data, the message holds a record `data` with the specification of the run's data.
    """
    spec = find_record(message.content, ConfigRecord, SPEC)
    if spec is not None:
        context.state[SPEC] = spec
    client_runtime(context)
    identity = ConfigRecord({"client": client_index(context)})
    return Message(RecordDict({"identity": identity}), reply_to=message)
