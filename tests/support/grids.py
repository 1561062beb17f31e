"""fedsim's ServerApp over a Grid of a test's own, called as any runtime calls it."""

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, RecordDict, UserConfig

import fedsim
from fedsim import Experiment
from fedsim.data import prepare
from fedsim.progress import Progress, Silent, listening
from fedsim.runtime import AppSpec, ClientsGrid, SequentialGrid
from fedsim.runtime.spec import RUN_ID, SERVER_NODE_ID
from fedsim.server.app import app


class Forgetful(SequentialGrid):
    """A Grid that keeps no states of clients, as Flower's own runtime."""

    changed_states = None  # type: ignore[assignment]


def run_over(
    kind: Callable[[AppSpec], ClientsGrid],
    experiment: Experiment,
    out: str | Path,
    progress: Progress | None = None,
    *,
    resume: bool = False,
) -> fedsim.Run:
    """Run an experiment, or go on with the run in `out`.

    Args:
        kind: Makes the Grid; the experiment's own engine is not asked for.
        experiment: What to run.
        out: The run directory.
        progress: Hears of each round.
        resume: Whether the run directory is one to go on with.
    """
    run_config: UserConfig = dict(experiment.to_run_config())
    server_config: UserConfig = {"run-dir": str(Path(out).absolute())} | ({"resume": True} if resume else {})
    spec = AppSpec(prepare(experiment).clients, run_config, second_try=experiment.privacy.noise == "seeded")
    context = Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), run_config | server_config)
    with kind(spec) as grid, listening(progress or Silent()):
        app(grid, context)
    return fedsim.load_run(out)
