"""`fedsim.run` runs an experiment; `fedsim.resume` resumes a run."""

from __future__ import annotations

import gc
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, RecordDict, UserConfig

from fedsim import private_log
from fedsim import progress as listeners
from fedsim.data import prepare
from fedsim.engines import start_engine
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.interruption import interruptible
from fedsim.messages import RUN
from fedsim.progress import Progress, Silent
from fedsim.references import see_folders
from fedsim.results import Run
from fedsim.results.directory import new_run_path
from fedsim.results.disclosure import LOG, PRIVATE, is_restricted
from fedsim.results.lock import refuse_if_held
from fedsim.results.resumption import check_data, examine
from fedsim.runtime import AppSpec, ClientsGrid
from fedsim.runtime.spec import RUN_ID, SERVER_APP, SERVER_NODE_ID, load_server_app
from fedsim.tracking import Tracker, tracked


def run(
    experiment: Experiment,
    out: str | Path | None = None,
    progress: Progress | None = None,
    trackers: Iterable[Tracker] = (),
) -> Run:
    """Simulate an experiment on this machine.

    Args:
        experiment: The experiment.
        out: The run directory, which must not exist; unset: `runs/<name>-<time>` under the current folder.
        progress: Called with each round.
        trackers: Called with each round and the end.

    Returns:
        The completed run.

    Raises:
        Refused: The experiment can't be run; nothing was written.
        RunFailed: It failed; the run directory holds its rounds so far.
        Interrupted: SIGINT, SIGTERM or SIGHUP came, in the main thread; `resume` continues the run. A second signal raises
            `KeyboardInterrupt` at once.
    """
    if experiment.data.source_entry.by_clients:
        raise Refused(
            f"data.source = {experiment.data.source!r}: its clients are processes of their own: fedsim run --on ADDRESS"
        )
    if experiment.runtime.engine != "sequential":
        experiment.check_importable("runtime.engine = 'sequential'")
    with (
        new_run_path(out, experiment.name) as path,
        tracked(path, progress or Silent(), trackers) as listener,
    ):
        _simulate(experiment, {"run-dir": str(path)}, listener)
    return Run(path)


def resume(
    path: str | Path,
    progress: Progress | None = None,
    trackers: Iterable[Tracker] = (),
    *,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Run:
    """Resume a run that was killed, interrupted or failed, from its last whole round.

    It ends with the same bits as without the interruption.

    Args:
        path: The run directory.
        progress: Called with each round.
        trackers: Called with each further round and the end.
        engine: Another engine than the run's own.
        workers: Another number of workers.
        address: Of another Ray cluster.

    Returns:
        The completed run.

    Raises:
        Refused: There is nothing to resume, the data or the experiment have changed, or another process writes the
            run; nothing was changed.
        RunFailed: As from `run`.
        Interrupted: As from `run`.
    """
    path = Path(path).absolute()
    found = examine(path)
    refuse_if_held(path)
    see_folders(found.manifest["modules"].values())
    changes = {"runtime.engine": engine, "runtime.workers": workers, "runtime.address": address}
    overrides = [f"{key}={value}" for key, value in changes.items() if value is not None]
    experiment = Experiment.load(path / "experiment.toml", overrides)
    check_data(path, found, prepare(experiment).sha256)
    if experiment.runtime.engine != "sequential":
        experiment.check_importable("runtime.engine = 'sequential'")
    with tracked(path, progress or Silent(), trackers) as listener:
        _simulate(experiment, {"run-dir": str(path), "resume": True}, listener)
    return Run(path)


_ONE_AT_A_TIME = (
    threading.RLock()
)  # the global generators, the logs and Flower's identity are a process's own


def _simulate(experiment: Experiment, server_config: UserConfig, listener: Progress) -> None:
    """Run the ServerApp over the experiment's engine; `server_config` is for the ServerApp only.

    Runs of one process, in threads of it, take turns.
    """
    run_config: UserConfig = dict(experiment.to_run_config())
    run_config[RUN] = uuid.uuid4().hex
    with _ONE_AT_A_TIME, interruptible(listener.stopping):
        private: UserConfig = {}
        if is_restricted(experiment.privacy.noise):
            private = {private_log.KEY: str(Path(str(server_config["run-dir"])) / PRIVATE / LOG)}
        spec = AppSpec(
            prepare(experiment).clients, run_config | private, second_try=experiment.privacy.noise == "seeded"
        )
        context = Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), run_config | server_config)
        with make_grid(experiment, spec) as grid, _quiet_flower(), listeners.listening(listener):
            server_app = load_server_app(SERVER_APP)  # while the workers load the ClientApp
            with _modules_out_of_the_collectors_way():
                server_app(grid, context)


def make_grid(experiment: Experiment, spec: AppSpec) -> ClientsGrid:
    """Start the experiment's engine."""
    runtime = experiment.runtime
    most = max(experiment.server.cohort, 1)  # more workers than clients in a round would idle
    if experiment.server.client_evaluation == "all" or not experiment.server.fixed_cohorts:
        most = spec.clients  # other cohorts may exceed the expected size
    return start_engine(runtime.engine, runtime.workers, runtime.address, spec, most)


@contextmanager
def _modules_out_of_the_collectors_way() -> Iterator[None]:
    """Let the garbage collector ignore existing objects, those of hundreds of modules.

    Flower triggers it twice for each record that a strategy reads, so that a round of QFedAvg or Bulyan would take a
    hundred times as long.
    """
    if gc.get_freeze_count():  # the caller's own, which unfreezing would undo
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Keep Flower's log lines of each round off the terminal: the progress replaces them."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
