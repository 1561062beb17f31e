"""The ServerApp: from a run config to a run directory."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from logging import INFO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict, UserConfig
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log
from flwr.superlink.grid import HttpGrid
from torch import nn

from fedsim import interruption, progress
from fedsim.arrays import record_of
from fedsim.data import FederatedData, prepare
from fedsim.data.spec import SPEC
from fedsim.errors import Interrupted, Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.models import initial_model
from fedsim.models.private import check_private_model, private_gradient
from fedsim.privacy.dp_sgd.validator import check_model
from fedsim.privacy.events import Noise
from fedsim.results import RunDirectory, default_run_path
from fedsim.results.disclosure import PUBLIC
from fedsim.server.account import NOISE, Account
from fedsim.server.central import Central
from fedsim.server.cohort_account import CohortAccount
from fedsim.server.correlated import Correlated
from fedsim.server.deployed_grid import DeployedGrid
from fedsim.server.deployment import Deployment
from fedsim.server.discretion import discreet
from fedsim.server.enrolment import Enrolment
from fedsim.server.evaluation import Evaluation
from fedsim.server.kept_ledger import KeptByClients
from fedsim.server.local_account import LocalAccount
from fedsim.server.matrix_account import MatrixAccount
from fedsim.server.protection import policy_for, report, secure_grid
from fedsim.server.rounds import Federation
from fedsim.server.snapshot import restore_snapshot, why_not_resumable, write_snapshot
from fedsim.server.stopping import check_target
from fedsim.server.strategies import build_strategy
from fedsim.server.summable import check_summable
from fedsim.tasks import Score, Task
from fedsim.tasks.build import scoring_of, task_of
from fedsim.tasks.scoring import score
from fedsim.threads import cores

app = ServerApp()


class FlowerLog:
    """Tells Flower's log, where `flwr run` shows it, how a run is going."""

    rounds = 0

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Say where the run is written."""
        self.rounds = rounds
        log(INFO, "fedsim: %d of %d rounds, written to %s", rounds - done, rounds, path, extra=PUBLIC)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Say how the round went."""
        values = ", ".join(f"{name} {value}" for name, value in row.items() if name != "round")
        log(INFO, "round %d/%d: %s", row["round"], self.rounds, values, extra=PUBLIC)

    def stopping(self) -> None:
        """Say that the round in flight is the last."""
        log(INFO, "fedsim: ends after this round", extra=PUBLIC)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment of the run config.

    `run-dir` names the run directory, if it isn't empty; with `resume` it is one that goes on (`fedsim.resume`
    sets that). In a server process it is `run-name` in the server's own folder.
    """
    config = context.run_config
    experiment = Experiment.from_run_config(config)
    deployment = Deployment.current()
    path = _run_path(experiment, config, deployment)
    data = prepare(experiment)
    if deployment is None:
        federation = _federation(experiment, data, grid, label=context.run_id)
    else:
        deployed = DeployedGrid(cast(HttpGrid, grid), ttl=experiment.server.timeout)
        federation = _federation(experiment, data, deployed, label=context.series_id, deployment=deployment)
    not_resumable = why_not_resumable(federation)
    home = None if deployment is None else deployment.secrets
    if config.get("resume"):
        if not_resumable is not None:
            raise Refused(f"run {str(path)!r}: can't be resumed: {not_resumable}")
        opened = RunDirectory.reopen(path, data.sha256, home)
    else:
        opened = RunDirectory.create(path, experiment, data.sha256, not_resumable, home)
    with opened as directory, discreet(directory):
        restore_snapshot(federation, directory)
        if deployment is not None and _begins_once(federation):
            federation.begin = directory.note_begun
        _note_privacy(federation, directory)
        try:
            _run(federation, directory, keep=not_resumable is None)
        finally:  # what was released before a failure is spent too
            _note_privacy(federation, directory)
        if not federation.finished:
            cure = f"fedsim resume {shlex.quote(str(path))} goes on"
            if not_resumable is not None:
                cure = f"can't be resumed: {not_resumable}"
            raise Interrupted(f"interrupted after round {federation.done} of {experiment.rounds}; {cure}")
        directory.write_model({name: array.numpy() for name, array in federation.arrays.items()})


def _run_path(experiment: Experiment, config: UserConfig, deployment: Deployment | None) -> Path:
    """Return where the run is written; a server process checks that it may run the experiment, and hears of it."""
    if deployment is None:
        return Path(str(config.get("run-dir") or default_run_path(experiment)))
    name = str(config.get("run-name", ""))
    path = deployment.run_path(name)
    deployment.check(experiment, str(config.get("code", "")))
    deployment.speak(name)
    return path


def _begins_once(federation: Federation) -> bool:
    """Say whether a round that clients have begun may not be run again, though this server has released nothing.

    They may have sent what they can't take back: noise that nobody can draw again, shares of secrets.
    """
    account = federation.account
    return federation.secure is not None or (account is not None and account.charges_ahead)


def _federation(
    experiment: Experiment,
    data: FederatedData,
    grid: Grid,
    *,
    label: int,
    deployment: Deployment | None = None,
) -> Federation:
    """Return the experiment's federation before its first round; `label` is what secure aggregation calls the run."""
    if experiment.server.cohort > data.clients and not experiment.privacy.hides_clients:
        raise Refused(
            f"server.cohort = {experiment.server.cohort}: must be at most the {data.clients} clients"
        )
    scoring = scoring_of(experiment)
    check_target(experiment.server, scoring)
    task = task_of(experiment, data.spec)
    model = initial_model(experiment, task)
    _check_privacy_of(model, task, data, experiment)
    arrays = record_of({name: np.array(t.numpy(), order="C") for name, t in model.state_dict().items()})
    if experiment.privacy.local_dp is not None:
        check_summable(experiment, arrays)
    policy = policy_for(experiment, arrays, data)
    strategy = build_strategy(experiment)
    account = _account(experiment, data)
    if deployment is not None and isinstance(account, KeptByClients) and account.noise is Noise.SYSTEM:
        account.charges_ahead = True
    central: Central | Correlated | None = None
    if isinstance(account, CohortAccount):
        central = Central.of(experiment, arrays, account.cohorts, account.noise_multiplier)
    if isinstance(account, MatrixAccount):
        central = Correlated.of(experiment, arrays, account.cohorts, account.plan)
    enrolment = _enrol(experiment, data, grid, deployment)
    return Federation(
        experiment=experiment,
        grid=grid,
        enrolment=enrolment,
        strategy=strategy,
        arrays=arrays,
        evaluation=Evaluation(experiment, scoring, lambda arrays: _score(model, task, arrays, data)),
        account=account,
        central=central,
        secure=None
        if policy is None
        else secure_grid(grid, experiment, policy, enrolment.nodes, label, deployment),
    )


def _enrol(
    experiment: Experiment, data: FederatedData, grid: Grid, deployment: Deployment | None
) -> Enrolment:
    """Wait for the clients: for all of them, but in a server process no longer than a round for those who are away."""
    registered = None if deployment is None else deployment.registered()
    query = RecordDict()
    if experiment.data.source_entry.by_clients:
        query[SPEC] = ConfigRecord({"spec": data.spec.dumps()})
    enrolment = Enrolment(grid, data.clients, query=query, registered=registered)
    least = data.clients if deployment is None else min(experiment.server.min_clients, data.clients)
    enrolment.wait(experiment.server.timeout, hoped=data.clients, least=least)
    return enrolment


def _account(
    experiment: Experiment, data: FederatedData
) -> Account | CohortAccount | MatrixAccount | LocalAccount | None:
    """Return the account of an experiment; None where nothing is to be accounted for."""
    if experiment.privacy.dp_fedavg is not None:
        return CohortAccount(experiment, experiment.privacy.dp_fedavg, data.clients, NOISE)
    if experiment.privacy.dp_ftrl is not None:
        return MatrixAccount(experiment, experiment.privacy.dp_ftrl, data.clients, NOISE)
    if experiment.privacy.local_dp is not None:
        return LocalAccount(experiment, experiment.privacy.local_dp, data.clients, NOISE)
    return Account.of(experiment, data)


def _check_privacy_of(model: nn.Module, task: Task, data: FederatedData, experiment: Experiment) -> None:
    """Refuse a model that DP-SGD can't train, and a kernel that can't train it."""
    dp_sgd = experiment.privacy.dp_sgd
    if dp_sgd is None:
        return
    try:
        check_model(model)
    except ValueError as error:
        raise Refused(f"model.name = {experiment.model.name!r}: {error}") from None
    try:
        private_gradient(model, task, dp_sgd)
    except ValueError as error:
        raise Refused(f"privacy.dp-sgd.kernel = {dp_sgd.kernel!r}: {error}") from None
    try:
        check_private_model(model, task, data.spec)
    except (RuntimeError, ValueError) as error:  # PyTorch's, where the model is for other inputs
        first, *_ = str(error).splitlines()
        raise Refused(f"model.name = {experiment.model.name!r}: {first}") from None


def _note_privacy(federation: Federation, directory: RunDirectory) -> None:
    """Say in the manifest what the run costs at most and has cost so far, and what the server sees of updates.

    Raises:
        RunFailed: The ledger is not of this run's mechanism.
    """
    if federation.account is not None:
        try:
            cost = federation.account.report(federation.charged)
        except ValueError as error:
            raise RunFailed(f"ledger.jsonl: {error}") from None
        directory.note_privacy(cost)
    if federation.secure is not None:
        directory.note_secure_aggregation(report(federation.experiment, federation.secure.policy))


def _run(federation: Federation, directory: RunDirectory, keep: bool) -> None:
    """Run the rounds that are left, until a signal; each is written, kept if it can be, and told."""
    listener = progress.current() or FlowerLog()
    listener.started(directory.path, federation.experiment.rounds, federation.done)

    def write(row: dict[str, Any]) -> None:
        public = directory.append_round(row)
        if keep:
            write_snapshot(federation, directory)
        listener.round_done(public)

    federation.run(write, stop=lambda: interruption.asked() or directory.stop_asked())


def _score(model: nn.Module, task: Task, arrays: ArrayRecord, data: FederatedData) -> Score:
    model.load_state_dict({name: torch.from_numpy(array.numpy()) for name, array in arrays.items()})
    return score(model, task, data.test, threads=cores())
