"""`fedsim up`: a server and its clients as processes of this machine, for one experiment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Self

from fedsim import interruption
from fedsim.data import prepare
from fedsim.deployment.keys import make_keys
from fedsim.deployment.operator.follow import Follower
from fedsim.deployment.operator.remote import Remote, Unreachable
from fedsim.deployment.operator.submit import submit
from fedsim.errors import Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.interruption import SIGNALS, interruptible
from fedsim.progress import Progress
from fedsim.results import Run
from fedsim.results.directory import check_free

HOST = "127.0.0.1"
READY = re.compile(r"fedsim server: ready on https://(\S+)")
VALID = timedelta(days=365)  # of keys, which --keep may leave for later runs
LOGS = " (--keep DIR keeps the logs)"
PAUSE = 0.1  # seconds between two checks whether server and clients are ready
GRACE = 15.0  # seconds for a process to end when it is told to


@dataclass(frozen=True)
class Child:
    """A `fedsim` process. It leads a process group of its own, so that Ctrl-C in the terminal doesn't reach it."""

    name: str  # in messages
    process: subprocess.Popen[bytes]
    log: Path  # the file of its output

    @property
    def lines(self) -> list[str]:
        """Its output so far."""
        return self.log.read_text(errors="replace").splitlines()

    @property
    def end(self) -> str | None:
        """Its exit code and last line of output, as a message; None while it runs."""
        if (code := self.process.poll()) is None:
            return None
        last = next((line.strip() for line in reversed(self.lines) if line.strip()), "it said nothing")
        return f"{self.name} ended with {code}: {last}"


@dataclass
class Children:
    """Child processes, started one by one; leaving the context manager ends all of them.

    If this process is killed, they notice it (`--parent-pid`) and end by themselves.
    """

    logs: Path  # the folder of their output
    started: list[Child] = field(default_factory=list)  # in the order in which they were started

    def start(self, name: str, *arguments: str) -> Child:
        """Start `fedsim` with arguments."""
        command = [sys.executable, "-P", "-m", "fedsim.cli", *arguments, "--parent-pid", str(os.getpid())]
        log = self.logs / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(Child(name, process, log))
        return self.started[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        before = signal.pthread_sigmask(
            signal.SIG_BLOCK, SIGNALS
        )  # a second Ctrl-C must leave no process behind
        try:
            for child in self.started:
                child.process.terminate()
            deadline = time.monotonic() + GRACE
            for child in self.started:
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(deadline - time.monotonic(), 0.0))
                with suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)  # and the rest of its group
                child.process.wait()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def up(
    experiment: Experiment,
    out: Path | None,
    keep: Path | None,
    progress: Progress,
    tell: Callable[[str], None],
) -> Run:
    """Run an experiment on a server and clients that are started for it and ended after it; return the completed run.

    They connect over TLS, with keys that are made for this run. The run directory `out` must not exist; None:
    `runs/<name of the run>`. `keep` is a new folder for keys, states and logs; None: a temporary one. `tell` is called
    with a line when all clients have joined, and when a client has ended.

    Raises:
        Refused: The experiment can't be run.
        RunFailed: The run failed, or the server or a client could not be started.
        Interrupted: SIGINT, SIGTERM or SIGHUP came, in the main thread. A second one raises `KeyboardInterrupt`.
    """
    if out is not None:
        check_free(out)
    if experiment.data.source_entry.by_clients:
        raise Refused(
            f"data.source = {experiment.data.source!r}: is for clients that bring their own; `fedsim client --data PATH` "
            "starts one"
        )
    clients = prepare(experiment).clients
    with (
        interruptible(progress.stopping),
        _folder(keep) as folder,
        started(folder, clients, experiment) as deployment,
    ):
        tell(f"{clients} clients have joined the server at {deployment.remote.address}")
        return deployment.run(experiment, out, progress, tell)


@contextmanager
def started(folder: Path, clients: int, only: Experiment | None = None) -> Iterator[LocalDeployment]:
    """Start a server and clients, which keep keys, states and logs in an empty folder; end them after the block.

    They run this experiment alone, which may name the caller's own code and data; None: all that name none.

    Raises `RunFailed` where one of them could not be started.
    """
    keys, logs = folder / "keys", folder / "logs"
    logs.mkdir()
    make_keys(keys, clients, [HOST], VALID)
    with Children(logs) as children:
        where = ["--host", HOST, "--port", "0"]
        admitted = [] if only is None else ["--only", str(_written(only, folder))]
        server = children.start("server", "server", *_options(folder, "server"), *where, *admitted)
        while (ready := next(filter(None, map(READY.search, server.lines)), None)) is None:
            _need([server])
            time.sleep(PAUSE)
        for name in (f"client-{client}" for client in range(clients)):
            children.start(name, "client", *_options(folder, name), "--on", ready[1], *admitted)
        with Remote.connect(ready[1], keys / "operator") as remote:
            while _online(remote) < clients:
                _need(children.started)
                time.sleep(PAUSE)
            yield LocalDeployment(remote, keys / "operator", children)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Make the folder for all that the processes need, and remove it unless it is to be kept."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="fedsim-up-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise Refused(f"--keep {str(keep)!r}: {error.strerror}; a new folder is needed") from None
    yield keep.absolute()


@dataclass
class LocalDeployment:
    """A server and its clients, all of which have joined."""

    remote: Remote  # the operator's connection to the server
    keys: Path  # the operator's
    children: Children  # the server's process, followed by the clients'
    gone: set[str] = field(default_factory=set)  # names of the ended clients that were reported

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


def _options(folder: Path, name: str) -> list[str]:
    return ["--keys", str(folder / "keys" / name), "--state", str(folder / name)]


def _written(experiment: Experiment, folder: Path) -> Path:
    file = folder / "experiment.toml"
    file.write_text(experiment.to_toml(), encoding="utf-8")
    return file


def _need(children: Iterable[Child]) -> None:
    for child in children:
        if (end := child.end) is not None:
            raise RunFailed(f"{end}{LOGS}")


def _online(remote: Remote) -> int:
    with suppress(Unreachable):  # `_need` sees whether it has ended
        return sum(client["online"] for client in remote.server()["clients"])
    return 0
