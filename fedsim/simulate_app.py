"""`fedsim.run_app` runs any Flower app."""

from __future__ import annotations

import re
import shlex
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.serverapp import Grid, ServerApp

from fedsim.engines import check_engine, start_engine
from fedsim.errors import Refused, RunFailed, reason
from fedsim.flower.app import FlowerApp, flat_config
from fedsim.flower.legacy import legacy_servers
from fedsim.results import Run
from fedsim.results.directory import RunDirectory, from_here, new_run_path
from fedsim.results.log import Log, recording
from fedsim.results.manifest import session
from fedsim.runtime import AppSpec
from fedsim.runtime.spec import CLIENT_APP, RUN_ID, SERVER_APP, SERVER_NODE_ID, client_of
from fedsim.runtime.waiting import NO_MORE_NODES

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

Value = bool | float | int | str
CLIENTS = 10  # default of Flower's simulation before 1.32 (since then: 2)


def run_app(
    folder: str | Path,
    run_config: Mapping[str, Value] | None = None,
    clients: int | None = None,
    out: str | Path | None = None,
    *,
    node_config: Mapping[str, Value] | Sequence[Mapping[str, Value]] = (),
    seed: int | None = 0,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    quiet: bool = False,
) -> Run:
    """Run a Flower app on this machine, as `flwr run` would simulate it.

    Args:
        folder: Folder of the app's `pyproject.toml`, searched first for its modules.
        run_config: Overrides of the app's own `[tool.flwr.app.config]`.
        clients: Number of clients, at least 1; unset: as many as `node_config` has, else the `num-supernodes` of the app's
            default federation, else 10.
        out: The run directory, which must not exist; unset: `runs/<name>-<time>` under the current folder.
        node_config: What nodes have in their context beside `partition-id` and `num-partitions`: one for all, or one for
            each client.
        seed: Of Python's, NumPy's and PyTorch's global generators, at least 0. They are set anew for each message from it,
            the client and the number of the message there, so that an app that draws from them gives the same bits on
            every engine. Noise that an app draws from them is as secret as the seed; None leaves them alone.
        engine: `local` (worker processes, the default), `ray` or `sequential` (this process).
        workers: Worker processes or actors; 0, the default: one for each core.
        address: Of a Ray cluster; unset: Ray is started on this machine.
        quiet: Write the app's output only to the run's `log.txt`.

    Returns:
        The completed run; `manifest["final"]` counts the answers that clients failed to give (`client-failures`), with the
        first reason, and its `log.txt` has all. For fedsim's own repository, it is the run of the experiment in its run config.

    Raises:
        Refused: The app can't be run; nothing was written.
        RunFailed: The ServerApp raised, or waits for more nodes than there are; the reason is the error's, the traceback
            is in the run's `log.txt`.
    """
    app = FlowerApp.read(folder)
    config = app.fused(run_config or {})
    if is_fedsim(app):
        from fedsim.simulate import run

        if node_config:
            raise Refused("node_config: is for the nodes of other apps, not for an experiment")
        experiment = experiment_of(config, clients, engine, workers, address)
        return run(experiment, out or str(config["run-dir"]) or None)
    engine, workers, address = engine or "local", workers or 0, address or ""
    check_engine(engine, workers, address)
    own = _node_configs(node_config)
    nodes = clients if clients is not None else len(own) if len(own) > 1 else app.clients or CLIENTS
    if nodes < 1:
        raise Refused(f"clients = {nodes}: must be at least 1")
    if len(own) not in (0, 1, nodes):
        raise Refused(
            f"node_config: has {len(own)} entries for {nodes} clients; allowed: one for all, or one for each"
        )
    if seed is not None and seed < 0:
        raise Refused(f"seed = {seed}: must be at least 0")
    spec = AppSpec(nodes, config, app.clientapp, str(app.folder), seed=seed, node_configs=own)
    with (
        new_run_path(out, _file_name(app.name)) as path,
        app.modules(),
        start_engine(engine, workers, address, spec, most=nodes) as grid,
    ):
        with spec.seeded("app-modules"):
            app.load_client()  # as the workers do meanwhile
        with spec.seeded("app-modules"):
            server_app = app.load_server()
        directory = RunDirectory.begin(path, _manifest(app, spec), {})
        with directory, recording(path / "log.txt", quiet) as log:
            if not quiet:
                print(f"{app.name} {app.version}: {nodes} clients, written to {from_here(path)}", flush=True)
            context = Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), dict(config))
            failures = _ClientFailures(log)
            grid.on_reply = failures.hear
            with spec.seeded("server-app"), legacy_servers(nodes, NO_MORE_NODES.format(nodes)):
                try:
                    _play(server_app, grid, context, log, failures)
                finally:
                    directory.end_with(failures.end())
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


class _ClientFailures:
    """The clients' answers that are errors: the first of each kind goes to stderr, all to the log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._kinds: set[tuple[str, str]] = set()  # exception and place
        self._count = 0
        self._first = ""
        self._over = False

    def hear(self, reply: Message) -> None:
        """Note a reply, if it is an error."""
        if not reply.has_error():
            return
        why = reply.error.reason or f"error {reply.error.code}"
        line = f"client {client_of(reply.metadata.src_node_id)} failed: {why}\n"
        kind = why.partition(":")[0], why.rpartition(" (")[2]
        with self._lock:
            if self._over:  # a client that nobody waited for
                return
            self._count += 1
            self._first = self._first or why
            new = kind not in self._kinds
            self._kinds.add(kind)
            if new:
                sys.stderr.write(line)  # and so to the log
            else:
                self._log.write(line)

    def end(self) -> dict[str, object]:
        """Note no more; return what the manifest says, nothing without failures."""
        with self._lock:
            self._over = True
        return {"client-failures": self._count, "first-client-failure": self._first} if self._count else {}

    @property
    def aside(self) -> str:
        """For the reason why the run has failed; empty without failures."""
        return f"; {self._count} client failures, the first {self._first!r}" if self._count else ""


def _node_configs(given: Mapping[str, Value] | Sequence[Mapping[str, Value]]) -> tuple[UserConfig, ...]:
    listed = [given] if isinstance(given, Mapping) else given
    return tuple(flat_config(config, "node config") for config in listed)


def _play(server_app: ServerApp, grid: Grid, context: Context, log: Log, failures: _ClientFailures) -> None:
    """Call the ServerApp; `RunFailed` if that raises, or leaves with an exit code other than 0."""
    try:
        server_app(grid, context)
    except RunFailed:
        raise
    except (Exception, SystemExit) as error:  # it is someone else's code
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return
        log.write("".join(traceback.format_exception(error)))
        raise RunFailed(f"{reason(error)} (traceback in log.txt){failures.aside}") from error


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
        "seed": spec.seed,
        "node-config": list(spec.node_configs),
        **session(),
    }


def _file_name(name: str) -> str:
    """Return a project's name as a valid directory name.

    >>> _file_name("My app: v/2"), _file_name("..")
    ('My-app-v-2', 'app')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "app"
