"""`fedsim.run`: an experiment in, a run out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, RecordDict

from fedsim import progress as listeners
from fedsim.data import prepare
from fedsim.engines import start_engine
from fedsim.experiment import Experiment
from fedsim.progress import Progress, Silent
from fedsim.results import Run, default_run_path
from fedsim.results.directory import check_free
from fedsim.runtime import AppSpec, ClientsGrid
from fedsim.runtime.spec import RUN_ID, SERVER_APP, SERVER_NODE_ID, load_server_app


def run(experiment: Experiment, out: str | Path | None = None, progress: Progress | None = None) -> Run:
    """Simulate an experiment on this machine.

    Args:
        experiment: What to run.
        out: The run directory, which must not exist; unset: `runs/<name>-<time>` under the current folder.
        progress: Hears of each round.

    Returns:
        The run, completed.

    Raises:
        Refused: The experiment can't be run; nothing was written.
        RunFailed: It began and could not go on; the run directory says how far it came.
    """
    path = default_run_path(experiment) if out is None else Path(out).absolute()
    check_free(path)
    run_config: dict[str, bool | float | int | str] = {**experiment.to_run_config(), "run-dir": str(path)}
    spec = AppSpec(prepare(experiment).clients, run_config)
    context = Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), run_config)
    with make_grid(experiment, spec) as grid, _quiet_flower(), listeners.listening(progress or Silent()):
        server_app = load_server_app(SERVER_APP)  # while the workers load the ClientApp
        server_app(grid, context)
    return Run(path)


def make_grid(experiment: Experiment, spec: AppSpec) -> ClientsGrid:
    """Start the experiment's engine."""
    runtime = experiment.runtime
    most = max(experiment.server.cohort, 1)  # more workers than clients in a round would wait for nothing
    if experiment.server.client_evaluation == "all" or experiment.server.sampling == "poisson":
        most = spec.clients
    return start_engine(runtime.engine, runtime.workers, runtime.address, spec, most)


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Keep Flower's log lines of each round, which the progress says better, off the terminal."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
