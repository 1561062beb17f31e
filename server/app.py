"""The ServerApp: runs the experiment of a run config and writes its run directory."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict, UserConfig
from flwr.serverapp import Grid, ServerApp
from torch import nn

from fedsim import interruption, progress
from fedsim.algorithms.build import algorithm_of, first_fields
from fedsim.algorithms.protocol import Algorithm
from fedsim.arrays import arrays_in, record_of
from fedsim.data import FederatedData, prepare
from fedsim.data.spec import SPEC
from fedsim.errors import Interrupted, Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.flower.log import log
from fedsim.layout import Layout
from fedsim.mechanisms import refused
from fedsim.models import initial_state
from fedsim.models.build import made_up
from fedsim.models.state import ModelState
from fedsim.optimizers.build import check_optimizer
from fedsim.privacy.account import Account
from fedsim.privacy.cohorts.sampling import CohortSampling
from fedsim.privacy.events import Noise, Sampling, Unit
from fedsim.privacy.halves import ServerHalf
from fedsim.privacy.plan import Plan
from fedsim.privacy.training import Unfit
from fedsim.randomness import ServerDraws
from fedsim.results import RunDirectory
from fedsim.results.directory import new_run_path
from fedsim.results.disclosure import PUBLIC
from fedsim.schedules.rate import check_schedule
from fedsim.server.aggregation.folded import Folded
from fedsim.server.aggregation.gathered import Gathered
from fedsim.server.aggregation.secure import policy_for, secure_aggregator
from fedsim.server.aggregation.updates import Aggregator
from fedsim.server.checkpoint import restore_checkpoint, why_not_resumable, write_checkpoint
from fedsim.server.deployed_grid import DeployedGrid
from fedsim.server.enrolment import Enrolment
from fedsim.server.evaluation import Evaluation, check_target
from fedsim.server.federation import Federation
from fedsim.server.fields import ServerFields
from fedsim.server.model import ServerModel
from fedsim.server.private_output import private_output
from fedsim.server.process import ServerProcess
from fedsim.server.sampling import build_schedule, own_sampling
from fedsim.server.strategies import build_strategy
from fedsim.streams import all_draws_from
from fedsim.tasks import Score, Task
from fedsim.tasks.build import scoring_of, task_of
from fedsim.tasks.scoring import score
from fedsim.threads import cores
from fedsim.training import plan_of, training_of
from fedsim.transforms.build import check_transforms, transforms_of

app = ServerApp()


class FlowerLog:
    """Logs a run's progress to Flower's log, which `flwr run` shows."""

    rounds = 0

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Log the run directory."""
        self.rounds = rounds
        log(INFO, "fedsim: %d of %d rounds, written to %s", rounds - done, rounds, path, extra=PUBLIC)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Log a round's row."""
        values = ", ".join(f"{name} {value}" for name, value in row.items() if name != "round")
        log(INFO, "round %d/%d: %s", row["round"], self.rounds, values, extra=PUBLIC)

    def stopping(self) -> None:
        """Log that the run ends after the current round."""
        log(INFO, "fedsim: ends after this round", extra=PUBLIC)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment of the run config.

    `run-dir` names the run directory, unless it is empty; with `resume`, which `fedsim.resume` sets, that run is
    resumed. In a server process the run directory is `run-name` in the server's folder.
    """
    config = context.run_config
    experiment = Experiment.from_run_config(config)
    deployment = ServerProcess.current()
    with _run_path(experiment, config, deployment) as path:
        _play(grid, context, experiment, path, deployment)


def _play(
    grid: Grid, context: Context, experiment: Experiment, path: Path, deployment: ServerProcess | None
) -> None:
    """Run an experiment, or go on with its run, in a run directory."""
    data = prepare(experiment)
    label, home = context.run_id, None
    if deployment is not None:
        grid = DeployedGrid(grid, ttl=experiment.server.timeout)
        label, home = context.series_id, deployment.secrets
    federation = _federation(experiment, data, grid, label, deployment)
    not_resumable = why_not_resumable(federation)
    if context.run_config.get("resume"):
        if not_resumable is not None:
            raise Refused(f"run {str(path)!r}: can't be resumed: {not_resumable}")
        opened = RunDirectory.reopen(path, data.sha256, home)
    else:
        opened = RunDirectory.create(path, experiment, data.sha256, not_resumable, home)
    with opened as directory, private_output(directory):
        restore_checkpoint(federation, directory)
        if deployment is not None and (federation.aggregator.secure or federation.account.charges_ahead):
            # A round that clients have begun is never repeated: they may have sent noise that can't be drawn again, or
            # shares of secrets, even if the server released nothing.
            federation.begin = directory.note_begun
        _note_privacy(federation, directory)
        if federation.fields:
            directory.note_fields(*federation.fields.size)
        try:
            _run(federation, directory, keep=not_resumable is None)
        finally:  # releases before a failure cost privacy too
            _note_privacy(federation, directory)
        if not federation.finished:
            cure = f"fedsim resume {shlex.quote(str(path))} goes on"
            if not_resumable is not None:
                cure = f"can't be resumed: {not_resumable}"
            raise Interrupted(f"interrupted after round {federation.done} of {experiment.rounds}; {cure}")
        directory.write_model(federation.model.complete(federation.arrays))


def _run_path(
    experiment: Experiment, config: UserConfig, deployment: ServerProcess | None
) -> AbstractContextManager[Path]:
    """Return the run directory; a server process checks the experiment first, and gets the log lines."""
    if deployment is None:
        given = str(config.get("run-dir", ""))
        return nullcontext(Path(given)) if given else new_run_path(None, experiment.name)
    name = str(config.get("run-name", ""))
    path = deployment.run_path(name)
    deployment.check(experiment, str(config.get("code", "")))
    deployment.log_to_server(name)
    return nullcontext(path)


def _federation(
    experiment: Experiment, data: FederatedData, grid: Grid, label: int, deployment: ServerProcess | None
) -> Federation:
    """Return the experiment's federation before its first round; `label` identifies the run in secure aggregation."""
    mechanism, settings = experiment.privacy.mechanism, experiment.privacy.settings
    if experiment.server.cohort > data.clients and not mechanism.hides_clients(settings):
        raise Refused(
            f"server.cohort = {experiment.server.cohort}: must be at most the {data.clients} clients"
        )
    scoring = scoring_of(experiment)
    check_target(experiment.server, scoring)
    task = task_of(experiment, data.spec)
    state = initial_state(experiment, task, data.spec)
    model = state.model
    _check_privacy_of(model, task, data, experiment)
    check_schedule(experiment.client, experiment.rounds)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    check_optimizer(experiment.client, list(trained.values()))
    arrays = record_of({name: np.array(array, order="C") for name, array in state.values().items()})
    algorithm = algorithm_of(experiment)
    fields = first_fields(algorithm, arrays_in(arrays), trained)
    layout = Layout.of(arrays, algorithm, fields)
    check_transforms(experiment, transforms_of(experiment), layout)
    policy = policy_for(experiment, layout.dimension, data)
    strategy = build_strategy(experiment)
    noise = Noise(experiment.privacy.noise)
    plan = plan_of(experiment, training_of(experiment, data.training_sizes(), layout.shapes))
    draws = ServerDraws(experiment)
    with refused(mechanism):
        half = plan.server(draws)
    schedule = build_schedule(experiment, data.clients, draws.coins)
    if schedule is not None and deployment is not None:
        raise Refused(
            f"server.schedule = {experiment.server.schedule!r}: needs virtual time, as in simulations; allowed here: unset"
        )
    sampling: CohortSampling
    if schedule is not None:
        sampling = schedule
    elif plan.cohorts.sampling is Sampling.OWN:
        sampling = own_sampling(experiment, data.clients, draws.coins)
    else:
        sampling = plan.sampling(draws)
    for warning in _warnings(experiment, state, algorithm, plan):
        logging.getLogger(__name__).warning("%s", warning, extra=PUBLIC)
    enrolment = _enrol(experiment, data, grid, deployment)
    aggregator: Aggregator = schedule or _aggregator(experiment, half)
    if policy is not None:
        aggregator = secure_aggregator(grid, experiment, policy, enrolment.nodes, label, deployment)
    lasting = deployment is not None and noise is Noise.SYSTEM
    account = Account(plan, noise, charges_ahead=policy is not None or lasting)
    return Federation(
        experiment=experiment,
        grid=grid,
        enrolment=enrolment,
        strategy=strategy,
        arrays=arrays,
        evaluation=Evaluation(
            experiment, scoring, lambda arrays: _score(experiment, state, task, arrays, data)
        ),
        account=account,
        half=half,
        sampling=sampling,
        aggregator=aggregator,
        layout=layout,
        fields=ServerFields(algorithm, layout, fields),
        share=plan.cohorts.share,
        model=ServerModel(state, noised=mechanism.unit is Unit.CLIENT),
    )


def _warnings(experiment: Experiment, state: ModelState, algorithm: Algorithm, plan: Plan) -> Iterator[str]:
    """Yield what a run is told before its first round."""
    if state.unsaved:
        yield (
            f"model.name = {experiment.model.name!r}: {', '.join(state.unsaved)}: changed in training, and no part of the "
            "state dict; put back before each client trains"
        )
    if warning := algorithm.warning(plan.cohorts.share):
        yield f"algorithm.name = {experiment.algorithm_entry.name!r}: {warning}"
    yield from plan.cautions()


def _aggregator(experiment: Experiment, half: ServerHalf) -> Aggregator:
    """Return the aggregator without secure aggregation: a linear strategy gets the mean, any other one each update."""
    uniform = experiment.server.weighting == "uniform"
    if experiment.server.strategy_entry.linear:
        return Folded(uniform=uniform, clipped=half.noises)
    return Gathered(uniform=uniform)


def _enrol(
    experiment: Experiment, data: FederatedData, grid: Grid, deployment: ServerProcess | None
) -> Enrolment:
    """Wait until all clients are online; in a server process `min-clients` suffice after `server.timeout`."""
    registered = None if deployment is None else deployment.registered()
    query = RecordDict()
    if experiment.data.source_entry.by_clients:
        query[SPEC] = ConfigRecord({"spec": data.spec.dumps()})
    enrolment = Enrolment(grid, data.clients, query=query, registered=registered)
    least = data.clients if deployment is None else min(experiment.server.min_clients, data.clients)
    enrolment.wait(experiment.server.timeout, hoped=data.clients, least=least)
    return enrolment


def _check_privacy_of(model: nn.Module, task: Task, data: FederatedData, experiment: Experiment) -> None:
    """Refuse a model that can't be trained under the experiment's mechanism."""
    mechanism = experiment.privacy.mechanism
    examples = task.tensors(made_up(data.spec))
    with refused(mechanism):
        try:
            mechanism.check_model(experiment.privacy.settings, model, task.losses, *examples)
        except Unfit:
            raise
        except ValueError as error:
            first, *_ = str(error).splitlines()
            raise Refused(f"model.name = {experiment.model.name!r}: {first}") from None


def _note_privacy(federation: Federation, directory: RunDirectory) -> None:
    """Write planned and spent privacy costs, and the protection by secure aggregation, to the manifest."""
    try:
        cost = federation.account.report(federation.charged)
    except ValueError as error:  # the ledger belongs to another mechanism
        raise RunFailed(f"ledger.jsonl: {error}") from None
    if cost:
        directory.note_privacy(cost)
    if protection := federation.aggregator.report():
        directory.note_secure_aggregation(protection)


def _run(federation: Federation, directory: RunDirectory, keep: bool) -> None:
    """Run the remaining rounds, or until a signal; write each row, a checkpoint if possible, and report the round."""
    listener = progress.current() or FlowerLog()
    listener.started(directory.path, federation.experiment.rounds, federation.done)

    def write(row: dict[str, Any]) -> None:
        public = directory.append_round(row)
        if keep and not federation.failed:  # a resumed run repeats the round that it failed in
            write_checkpoint(federation, directory)
        listener.round_done(public)

    federation.run(write, stop=lambda: interruption.asked() or directory.stop_asked())


def _score(
    experiment: Experiment, state: ModelState, task: Task, arrays: ArrayRecord, data: FederatedData
) -> Score:
    state.load(arrays_in(arrays))
    with all_draws_from(
        experiment.seed, "test"
    ):  # the same numbers in each evaluation, if the model draws any
        return score(state.model, task, data.test, threads=cores())
