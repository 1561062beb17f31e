"""A server and clients as processes, under the tests' control."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedsim import Experiment, Run
from fedsim.deployment.keys import make_keys
from fedsim.deployment.local import Child, Children
from fedsim.deployment.operator import submit
from fedsim.deployment.operator.follow import follow
from fedsim.deployment.operator.remote import Remote, Unreachable
from fedsim.deployment.operator.submit import Submitted
from fedsim.progress import Silent
from tests.support.waiting import wait_for

HOST = "127.0.0.1"
READY = re.compile(r"fedsim server: ready on https://(\S+)")


class Federation:
    """A server and its clients.

    Attributes:
        children: Their processes.
        keys: The folder of their keys.
        server: The server's process.
        address: Where it listens.
        remote: It, as its operator sees it.
    """

    def __init__(
        self,
        folder: Path,
        children: Children,
        clients: int,
        server_code: str = "",
        options: Sequence[str] = (),
    ) -> None:
        self.folder, self.children, self._server_code, self._options = folder, children, server_code, options
        self.keys = folder / "keys"
        make_keys(self.keys, clients, [HOST], timedelta(days=1))
        self.server = self._serve("0")
        self.address = self._ready()
        self.remote = Remote.connect(self.address, self.keys / "operator")

    # --- processes ----------------------------------------------------------------------------------------

    def _serve(self, port: str) -> Child:
        where = ["--keys", str(self.keys / "server"), "--state", str(self.folder / "server"), *self._options]
        return self._start("server", self._server_code, "server", *where, "--host", HOST, "--port", port)

    def _start(self, name: str, code: str, *arguments: str) -> Child:
        """Start `fedsim`, after some code of a test's."""
        if not code:
            return self.children.start(name, *arguments)
        command = [sys.executable, "-c", f"{code}\nfrom fedsim.cli import app; app()", *arguments]
        log = self.children.logs / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--parent-pid", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.children.started.append(Child(name, process, log))
        return self.children.started[-1]

    def _ready(self) -> str:
        def ready() -> str | None:
            assert self.server.end is None, self.server.end
            return next((found[1] for line in self.server.lines if (found := READY.search(line))), None)

        return wait_for(ready)

    def restart_server(self) -> None:
        """Kill the server, and start it again at the same address."""
        self.signal(self.server, signal.SIGKILL)
        self.server.process.wait()
        self.server.log.rename(self.server.log.with_suffix(".before"))
        self.server = self._serve(self.address.rpartition(":")[2])
        assert self._ready() == self.address

    def client(self, number: int, *options: str, address: str = "", code: str = "") -> Child:
        """Start a client, which has the state that one of its number had before."""
        name = f"client-{number}"
        own = ["--keys", str(self.keys / name), "--state", str(self.folder / name)]
        return self._start(name, code, "client", *own, "--on", address or self.address, *options)

    def wait_until_online(self, clients: int) -> None:
        """Wait until so many clients are there."""

        def online() -> bool:
            with suppress(Unreachable):
                return sum(bool(client["online"]) for client in self.remote.server()["clients"]) >= clients
            return False

        wait_for(online)

    @staticmethod
    def signal(child: Child, number: int) -> None:
        """Send a signal to all of a child's processes."""
        os.killpg(child.process.pid, number)

    # --- runs ---------------------------------------------------------------------------------------------

    def submit(self, experiment: Experiment) -> Submitted:
        """Start a run."""
        return submit.submit(self.remote, experiment, self.keys / "operator")

    def resume(self, run: Submitted) -> Submitted:
        """Go on with a run."""
        return submit.resume(self.remote, run.name, self.keys / "operator")

    def rows(self, run: Submitted) -> list[dict[str, Any]]:
        """Return a run's rows so far, as the server has them."""
        path = self.folder / "server" / "runs" / run.name
        return Run(path).rows if (path / "manifest.json").is_file() else []

    def wait_for_round(self, run: Submitted, round_: int) -> None:
        """Wait until a round is whole."""
        wait_for(lambda: len(self.rows(run)) >= round_)

    def finish(self, run: Submitted, out: Path) -> Run:
        """Follow a run to its end."""
        return follow(run, out, Silent(), lambda line: None, 0)


@contextmanager
def federation(
    folder: Path, clients: int, server_code: str = "", options: Sequence[str] = ()
) -> Iterator[Federation]:
    """Start a server, with options of its own, and end it and its clients after the block."""
    (folder / "logs").mkdir(parents=True)
    with Children(folder / "logs") as children:
        party = Federation(folder, children, clients, server_code, options)
        try:
            with party.remote:
                yield party
        except BaseException:
            for child in children.started:
                print(f"--- {child.name}", *child.lines[-40:], sep="\n")
            raise


class Cable:
    """A line to a server that can be cut, and mended.

    Attributes:
        address: Where it begins.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._is_cut = False
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing through any more."""
        self._is_cut = True
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def close(self) -> None:
        """End it."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # until it is closed
            while True:
                near, _ = self._listener.accept()
                try:
                    if self._is_cut:
                        raise ConnectionAbortedError
                    far = socket.create_connection(self._target)
                except OSError:  # cut, or nobody listens
                    near.close()
                    continue
                self._ends += [near, far]
                threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    @classmethod
    def _carry(cls, near: socket.socket, far: socket.socket) -> None:
        """Carry what one end says to the other, both ways, until both have ended."""
        with near, far:
            back = threading.Thread(target=cls._pump, args=(far, near), daemon=True)
            back.start()
            cls._pump(near, far)
            back.join()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                sink.sendall(content)
        for end in (source, sink):  # this way is over, and TLS needs both
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
