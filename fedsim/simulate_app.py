"""`fedsim.run_app` runs any Flower app."""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, RecordDict, UserConfig
from flwr.serverapp import Grid, ServerApp

from fedsim.engines import check_engine, start_engine
from fedsim.errors import Refused, RunFailed
from fedsim.flower.app import FlowerApp, reason
from fedsim.results import Run
from fedsim.results.directory import RunDirectory, from_here, new_run_path
from fedsim.results.log import Log, recording
from fedsim.results.manifest import session
from fedsim.runtime import AppSpec
from fedsim.runtime.spec import CLIENT_APP, RUN_ID, SERVER_APP, SERVER_NODE_ID

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

CLIENTS = 10  # default of Flower's simulation before 1.32 (since then: 2)


def run_app(
    folder: str | Path,
    run_config: Mapping[str, bool | float | int | str] | None = None,
    clients: int | None = None,
    out: str | Path | None = None,
    *,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    quiet: bool = False,
) -> Run:
    """Run a Flower app on this machine, as `flwr run` would simulate it.

    Args:
        folder: Folder of the app's `pyproject.toml`, searched first for its modules.
        run_config: Overrides of the app's own `[tool.flwr.app.config]`.
        clients: Number of clients, at least 1; unset: the `num-supernodes` of the app's default federation, else 10.
        out: The run directory, which must not exist; unset: `runs/<name>-<time>` under the current folder.
        engine: `local` (worker processes, the default), `ray` or `sequential` (this process).
        workers: Worker processes or actors; 0, the default: one for each core.
        address: Of a Ray cluster; unset: Ray is started on this machine.
        quiet: Write the app's output only to the run's `log.txt`.

    Returns:
        The completed run. For fedsim's own repository, it is the run of the experiment in its run config.

    Raises:
        Refused: The app can't be run; nothing was written.
        RunFailed: The ServerApp raised; the reason is the error's, the traceback is in the run's `log.txt`.
    """
    app = FlowerApp.read(folder)
    config = app.fused(run_config or {})
    if is_fedsim(app):
        from fedsim.simulate import run

        experiment = experiment_of(config, clients, engine, workers, address)
        return run(experiment, out or str(config["run-dir"]) or None)
    engine, workers, address = engine or "local", workers or 0, address or ""
    check_engine(engine, workers, address)
    nodes = clients if clients is not None else app.clients or CLIENTS
    if nodes < 1:
        raise Refused(f"clients = {nodes}: must be at least 1")
    spec = AppSpec(nodes, config, app.clientapp, str(app.folder))
    with (
        new_run_path(out, _file_name(app.name)) as path,
        app.modules(),
        start_engine(engine, workers, address, spec, most=nodes) as grid,
    ):
        server_app, _ = app.load()  # while the workers load the ClientApp
        directory = RunDirectory.begin(path, _manifest(app, spec), {})
        with directory, recording(path / "log.txt", quiet) as log:
            if not quiet:
                print(f"{app.name} {app.version}: {nodes} clients, written to {from_here(path)}", flush=True)
            context = Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), dict(config))
            _play(server_app, grid, context, log)
    return Run(path)


def is_fedsim(app: FlowerApp) -> bool:
    """Return whether an app is fedsim's own repository, with an experiment in its run config."""
    return (app.name, app.serverapp, app.clientapp) == ("fedsim", SERVER_APP, CLIENT_APP)


def experiment_of(
    config: UserConfig, clients: int | None, engine: str | None, workers: int | None, address: str | None
) -> Experiment:
    """Return the experiment in the run config of fedsim's own repository.

    Raises:
        Refused: It is invalid, or a number of clients is given besides its own.
    """
    from fedsim.experiment import Experiment

    if clients is not None:
        raise Refused(f"clients = {clients}: is not for an experiment, which has data.clients")
    runtime = {"engine": engine, "workers": workers, "address": address}
    changes = [shlex.quote(f"runtime.{key}={value}") for key, value in runtime.items() if value is not None]
    return Experiment.from_run_config({**config, "set": " ".join([str(config["set"]), *changes])})


def _play(server_app: ServerApp, grid: Grid, context: Context, log: Log) -> None:
    """Call the ServerApp; `RunFailed` if that raises, or leaves with an exit code other than 0."""
    try:
        server_app(grid, context)
    except (Exception, SystemExit) as error:  # it is someone else's code
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return
        log.write("".join(traceback.format_exception(error)))
        raise RunFailed(f"{reason(error)} (traceback in log.txt)") from error


def _manifest(app: FlowerApp, spec: AppSpec) -> dict[str, object]:
    return {
        "kind": "flower-app",
        "name": app.name,
        "version": app.version,
        "folder": str(app.folder),
        "serverapp": app.serverapp,
        "clientapp": app.clientapp,
        "run-config": spec.run_config,
        "clients": spec.clients,
        **session(),
    }


def _file_name(name: str) -> str:
    """Return a project's name as a valid directory name.

    >>> _file_name("My app: v/2"), _file_name("..")
    ('My-app-v-2', 'app')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "app"
