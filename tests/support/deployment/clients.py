"""Real clients as processes, for tests, and runs for them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim import Experiment
from fedsim.deployment.bundle import installed_code, make_bundle
from fedsim.deployment.operator.remote import Remote
from fedsim.flower.control import FlowerRun
from tests.support.deployment.servers import COMMAND, LONGEST, Server, environment
from tests.support.waiting import wait_for

LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"


@dataclass
class Client:
    """A client process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    def says(self, *parts: str, after: int = 0) -> str:
        """Return the first line beyond the log's first `after` bytes that holds all parts, when it is there."""

        def found() -> list[str]:
            return [line for line in self.text[after:].splitlines() if all(part in line for part in parts)]

        return wait_for(found, LONGEST, said=lambda: f"no line with {parts} in:\n{self.text}")[0]


@contextmanager
def client(folder: Path, name: str, *options: str, largest_file: int | None = None) -> Iterator[Client]:
    """Start a client with its state and its log in a folder, and end it."""
    log, command = folder / f"{name}.log", COMMAND
    if largest_file is not None:
        command = [*COMMAND[:-1], LIMITED.format(size=largest_file) + COMMAND[-1]]
    with subprocess.Popen(
        [*command, "client", "--state", str(folder / name), *options],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        with log.open("ab") as stream:  # by another process, for which no limit of files holds
            copying = subprocess.Popen(["cat"], stdin=process.stdout, stdout=stream)
        try:
            yield Client(process, log)
        finally:
            process.terminate()
            try:
                process.wait(LONGEST)
            finally:
                process.kill()
                process.wait()
                copying.wait()


def keyed(server: Server, keys: Path, number: int) -> list[str]:
    """Return the options of a client with keys."""
    return ["--on", server.address, "--keys", str(keys / f"client-{number}")]


def run(
    server: Server,
    keys: Path,
    experiment: Experiment,
    name: str,
    series: int | None = None,
    fab: bytes | None = None,
    **config: Any,
) -> FlowerRun:
    """Start a run, and return it when it has ended."""
    given = {**experiment.to_run_config(), "run-name": name, "code": installed_code(), **config}
    with Remote.connect(server.address, keys / "operator") as remote:
        started = remote.start_run(fab or make_bundle(), given, series)

        def ended() -> FlowerRun | None:
            now = remote.flower_run(started.run_id)
            return now if now.is_finished else None

        return wait_for(ended, 3 * LONGEST, 0.2, said=lambda: remote.flower_run(started.run_id))
