"""`fedsim up`: a server and its clients as processes of this machine, for one experiment."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from fedsim import interruption
from fedsim.data import prepare
from fedsim.deployment.children import Child, Children
from fedsim.deployment.key_making import make_keys
from fedsim.deployment.operator.follow import Follower
from fedsim.deployment.operator.remote import Remote, Unreachable
from fedsim.deployment.operator.submit import submit
from fedsim.errors import Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.interruption import interruptible
from fedsim.progress import Progress
from fedsim.results import Run
from fedsim.results.directory import check_free

HOST = "127.0.0.1"
READY = re.compile(r"fedsim server: ready on https://(\S+)")
VALID = timedelta(days=365)  # of keys, which --keep may leave for later runs
LOGS = " (--keep DIR keeps the logs)"
PAUSE = 0.1  # seconds between two checks whether server and clients are ready


def up(
    experiment: Experiment,
    out: Path | None,
    keep: Path | None,
    progress: Progress,
    tell: Callable[[str], None],
) -> Run:
    """Run an experiment on a server and clients that are started for it and ended after it.

    They connect over TLS, with keys that are made for this run.

    Args:
        experiment: The experiment.
        out: The run directory, which must not exist; None: `runs/<name of the run>`.
        keep: A new folder for keys, states and logs; None: a temporary one.
        progress: Called with each round.
        tell: Called with a line when all clients have joined, and when a client has ended.

    Returns:
        The completed run.

    Raises:
        Refused: The experiment can't be run.
        RunFailed: The run failed, or the server or a client could not be started.
        Interrupted: SIGINT or SIGTERM came, in the main thread. A second one raises `KeyboardInterrupt`.
    """
    if out is not None:
        check_free(out)
    if experiment.data.source_entry.by_clients:
        raise Refused(
            f"data.source = {experiment.data.source!r}: is for clients that bring their own; `fedsim client --data PATH` "
            "starts one"
        )
    clients = prepare(experiment).clients
    with interruptible(progress.stopping), _folder(keep) as folder, started(folder, clients) as deployment:
        tell(f"{clients} clients have joined the server at {deployment.remote.address}")
        return deployment.run(experiment, out, progress, tell)


@contextmanager
def started(folder: Path, clients: int) -> Iterator[LocalDeployment]:
    """Start a server and clients, and end them after the block.

    Args:
        folder: Empty; for keys, states and logs.
        clients: Number of clients.

    Raises:
        RunFailed: One of them could not be started.
    """
    keys, logs = folder / "keys", folder / "logs"
    logs.mkdir()
    make_keys(keys, clients, [HOST], VALID)
    with Children(logs) as children:
        server = children.start("server", *_server(folder))
        while (ready := next(filter(None, map(READY.search, server.lines)), None)) is None:
            _need([server])
            time.sleep(PAUSE)
        for client in range(clients):
            children.start(f"client-{client}", *_client(folder, client, ready[1]))
        with Remote.connect(ready[1], keys / "operator") as remote:
            while _online(remote) < clients:
                _need(children.started)
                time.sleep(PAUSE)
            yield LocalDeployment(remote, keys / "operator", children)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Make the folder for all that the processes need, and remove it unless it is to be kept."""
    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="fedsim-up-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise Refused(f"--keep {str(keep)!r}: {error.strerror}; a new folder is needed") from None
    yield keep.absolute()


@dataclass
class LocalDeployment:
    """A server and its clients, all of which have joined.

    Attributes:
        remote: The operator's connection to the server.
        keys: The operator's key folder.
        children: The server's process, followed by the clients'.
        gone: Names of the ended clients that were reported.
    """

    remote: Remote
    keys: Path
    children: Children
    gone: set[str] = field(default_factory=set)

    def run(
        self, experiment: Experiment, out: Path | None, progress: Progress, tell: Callable[[str], None]
    ) -> Run:
        """Run an experiment; a signal ends it after the round in flight. Arguments and errors as of `up`."""
        run = replace(submit(self.remote, experiment, self.keys), stays=False)
        has_asked = False
        with run.copy_at(out or Path("runs") / run.name) as copy:

            def watch(has_begun: bool) -> None:
                nonlocal has_asked
                self.check(tell)
                # Before the first round a signal ends all processes at once; there is no round to wait for.
                if has_begun and interruption.asked() and not has_asked:
                    with suppress(Refused):  # the run has just ended
                        has_asked = self.remote.ask_to_stop(run.name)

            Follower(run, copy, progress, tell, done=0, watch=watch).follow()
        return Run(copy.path)

    def check(self, tell: Callable[[str], None]) -> None:
        """Report each ended client once; raises `RunFailed` if the server or all clients have ended."""
        server, *clients = self.children.started
        _need([server])
        ends = {client.name: end for client in clients if (end := client.end) is not None}
        for name in ends.keys() - self.gone:
            tell(ends[name])
        self.gone |= ends.keys()
        if len(ends) == len(clients):
            raise RunFailed(f"all clients have ended{LOGS}")


def _server(folder: Path) -> list[str]:
    where = ["--keys", str(folder / "keys" / "server"), "--state", str(folder / "server")]
    return ["server", *where, "--host", HOST, "--port", "0"]


def _client(folder: Path, client: int, address: str) -> list[str]:
    name = f"client-{client}"
    where = ["--keys", str(folder / "keys" / name), "--state", str(folder / name)]
    return ["client", *where, "--on", address]


def _need(children: Iterable[Child]) -> None:
    for child in children:
        if (end := child.end) is not None:
            raise RunFailed(f"{end}{LOGS}")


def _online(remote: Remote) -> int:
    try:
        return sum(client["online"] for client in remote.server()["clients"])
    except Unreachable:  # `_need` sees whether it has ended
        return 0
