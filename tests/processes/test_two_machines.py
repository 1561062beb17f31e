"""The README's commands for two machines, as it has them: two network namespaces stand in for the machines."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fedsim
from tests.conftest import CONFIGS
from tests.fedsim.deployment.server.test_server_network import SERVER, namespaces  # noqa: F401 (a fixture)
from tests.support.deployment.servers import environment
from tests.support.waiting import wait_for

README = Path(__file__).parents[2] / "README.md"
FEDSIM = [sys.executable, "-P", "-m", "fedsim.cli"]


def commands() -> list[list[str]]:
    """Return the arguments of the README's five commands, the server's name replaced by its address."""
    section = README.read_text().partition("## Server and clients as separate processes")[2]
    block = section.partition("```\n")[2].partition("```")[0].replace("\\\n", " ")
    lines = [line.partition("#")[0] for line in block.splitlines() if line.strip()]
    assert len(lines) == 5
    assert block.count("\n") < 10
    here = {"server.example": SERVER, "experiments/configs": str(CONFIGS)}
    for name, ours in here.items():
        lines = [line.replace(name, ours) for line in lines]
    return [shlex.split(line)[1:] for line in lines]


@contextmanager
def running(machine: str, folder: Path, arguments: list[str]) -> Iterator[Path]:
    """Run a command on a machine, in a folder; yields what it prints."""
    log = folder / f"{arguments[0]}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["ip", "netns", "exec", machine, *FEDSIM, *arguments],
            cwd=folder,
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.mark.slow
def test_from_nothing_to_a_server_and_two_clients(tmp_path: Path, namespaces: tuple[str, str]) -> None:  # noqa: F811
    keys, server, one, other, run = commands()
    machines = [tmp_path / name for name in ("here", "there")]
    for machine in machines:
        machine.mkdir()
    subprocess.run([*FEDSIM, *keys], cwd=machines[0], env=environment(), check=True, capture_output=True)
    shutil.move(machines[0] / "keys" / "client-0", machines[1] / "client-0")
    with (
        running(namespaces[0], machines[0], server) as log,
        running(namespaces[0], machines[0], one),
        running(namespaces[1], machines[1], other) as client_log,
    ):
        said = lambda: log.read_text() + client_log.read_text()  # noqa: E731
        wait_for(lambda: "joined" in client_log.read_text(), said=said)
        done = subprocess.run(
            ["ip", "netns", "exec", namespaces[0], *FEDSIM, *run, "--out", "copy"],
            cwd=machines[0],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr + log.read_text()
    result = fedsim.load_run(machines[0] / "copy")
    assert (result.status, len(result.rows)) == ("completed", 5)
    assert {row["clients"] for row in result.rows} == {2}
    assert result.accuracy is not None
    assert result.accuracy > 0.9
