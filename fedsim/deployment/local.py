"""`fedsim up`: a server and its clients as processes of this machine, for one experiment."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from fedsim import interruption
from fedsim.data import prepare
from fedsim.deployment.children import Child, Children
from fedsim.deployment.copying import RunCopy
from fedsim.deployment.following import Follower
from fedsim.deployment.key_making import make_keys
from fedsim.deployment.remote import Remote, Unreachable
from fedsim.deployment.submission import Submitted, submit
from fedsim.errors import Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.interruption import interruptible
from fedsim.progress import Progress
from fedsim.results import Run
from fedsim.results.directory import check_free

HOST = "127.0.0.1"
READY = re.compile(r"fedsim server: ready on https://(\S+)")
VALID = timedelta(days=365)  # of keys that --keep may leave for later
PAUSE = 0.1  # seconds between two looks at whether someone is ready


def up(
    experiment: Experiment,
    out: Path | None,
    keep: Path | None,
    progress: Progress,
    tell: Callable[[str], None],
) -> Run:
    """Run an experiment by a server and clients that are started for it and ended with it.

    They speak TLS with keys that are made for them.

    Args:
        experiment: What to run.
        out: The run directory, which must not exist; None: `runs/<run>`, by the name that the run gets.
        keep: A new folder for keys, states and logs; None: a temporary one.
        progress: Hears of each round.
        tell: Hears who is ready, and which client has ended.

    Returns:
        The run, completed.

    Raises:
        Refused: The experiment can't be run.
        RunFailed: The run failed, or the server or a client could not be started.
        Interrupted: SIGINT or SIGTERM came, in the main thread. A second one raises `KeyboardInterrupt`.
    """
    if out is not None:
        check_free(out)
    clients = prepare(experiment).clients
    with interruptible(progress.stopping), _folder(keep) as folder, Children(folder / "logs") as children:
        (folder / "logs").mkdir()
        make_keys(folder / "keys", clients, [HOST], VALID)
        party = _Party(children, folder, tell)
        address = party.start_server()
        party.start_clients(address, clients)
        keys = folder / "keys" / "operator"
        with Remote.connect(address, keys) as remote:
            party.wait_for(remote, clients)
            run = replace(submit(remote, experiment, keys), stays=False)
            with run.copy_at(out or Path("runs") / run.name) as copy:
                watch = _Watch(party, run, copy)
                Follower(run, copy, progress, tell, done=0, watch=watch.look).follow()
    return Run(copy.path)


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
class _Party:
    """The server and the clients."""

    children: Children
    folder: Path
    tell: Callable[[str], None]
    gone: set[str] = field(default_factory=set)

    def start_server(self) -> str:
        """Start the server and return where it listens, once it does."""
        server = self.children.start(
            "server",
            "server",
            *("--keys", str(self.folder / "keys" / "server")),
            *("--state", str(self.folder / "server")),
            *("--host", HOST, "--port", "0"),
        )
        while (ready := next(filter(None, map(READY.search, server.lines)), None)) is None:
            self._need(server)
            time.sleep(PAUSE)
        return ready[1]

    def start_clients(self, address: str, clients: int) -> None:
        """Start the clients, all at once."""
        for client in range(clients):
            name = f"client-{client}"
            self.children.start(
                name,
                "client",
                *("--on", address),
                *("--keys", str(self.folder / "keys" / name)),
                *("--state", str(self.folder / name)),
            )

    def wait_for(self, remote: Remote, clients: int) -> None:
        """Wait until all clients have joined."""
        while _online(remote) < clients:
            for child in self.children.started:
                self._need(child)
            time.sleep(PAUSE)
        self.tell(f"{clients} clients have joined the server at {remote.address}")

    def check(self) -> None:
        """Tell once of a client that has ended; raises `RunFailed` where the server has, or all clients."""
        server, *clients = self.children.started
        self._need(server)
        ends = {client.name: end for client in clients if (end := client.end) is not None}
        for name in ends.keys() - self.gone:
            self.tell(ends[name])
        self.gone |= ends.keys()
        if len(ends) == len(clients):
            raise RunFailed("all clients have ended (--keep DIR keeps the logs)")

    def _need(self, child: Child) -> None:
        if (end := child.end) is not None:
            raise RunFailed(f"{end} (--keep DIR keeps the logs)")


@dataclass
class _Watch:
    """Looks after the processes while a run is followed, and ends the run where a signal has come."""

    party: _Party
    run: Submitted
    copy: RunCopy
    has_asked: bool = False

    def look(self) -> None:
        """Look once; before the first round a signal ends everything at once, so nobody asks for one."""
        self.party.check()
        if self.copy.has_begun and interruption.asked() and not self.has_asked:
            self.has_asked = self.run.remote.ask_to_stop(self.run.name)


def _online(remote: Remote) -> int:
    try:
        return sum(client["online"] for client in remote.server()["clients"])
    except Unreachable:  # whether it has ended is seen elsewhere
        return 0
