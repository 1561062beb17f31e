"""A supervisor of Flower's SuperExec, which starts a ServerApp for each run.

    server --> this process --> flower-superexec --> flwr-serverapp ...   (SuperExec leads a process group)

The supervisor ends the whole group when it gets SIGTERM, and when the server has ended in whatever way: ServerApps get
SIGTERM first, SIGKILL after `GRACE`. A SuperExec that ends by itself is started again, and its ServerApps, which end with
it, leave runs that can be resumed; where it ends again and again, the supervisor ends, too. It imports the standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

GRACE = 5.0  # seconds from SIGTERM to SIGKILL
RESTARTS = 5  # of SuperExec
PAUSE = 0.1
RUN = "from fedsim.flower.superexec import main; main()"


def start(address: str, root_certificates: Path | None, secret: Path) -> subprocess.Popen[bytes]:
    """Start the supervisor; SuperExec and ServerApps inherit this process's environment.

    The server's address is `HOST:PORT`; the paths are the files of the authority's certificate (None: no TLS), and of
    the secret that SuperExec and server share.
    """
    trust = ["--insecure"] if root_certificates is None else ["--root-certificates", str(root_certificates)]
    options = ["--runtime-api-address", address, "--superexec-auth-secret-file", str(secret), *trust]
    command = [sys.executable, "-m", __name__, str(os.getpid()), *options]
    return subprocess.Popen(command, start_new_session=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the supervisor and all processes below it."""
    process.terminate()
    try:
        process.wait(GRACE + 2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(parent: int, options: Sequence[str]) -> int:
    """Run SuperExec until SIGTERM or until the parent ends; return an exit code, 1 if SuperExec ended by itself too often."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    scripts = sysconfig.get_path("scripts")  # where flwr-serverapp is
    environment = {**os.environ, "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")])}
    command = [sys.executable, "-c", RUN, *options, "--parent-pid", str(os.getpid())]
    for left in reversed(range(RESTARTS + 1)):
        superexec = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
        while not asked and os.getppid() == parent and superexec.poll() is None:
            time.sleep(PAUSE)
        code = superexec.poll()
        _end_group(superexec)
        if code is None:
            return 0
        if left:
            print(
                f"fedsim server: SuperExec ended with {code}, and is started again",
                file=sys.stderr,
                flush=True,
            )
    return 1


def _end_group(superexec: subprocess.Popen[bytes]) -> None:
    superexec.kill()  # it has no state to save, and SIGTERM would take seconds
    superexec.wait()
    until = time.monotonic() + GRACE
    with suppress(ProcessLookupError):
        os.killpg(superexec.pid, signal.SIGTERM)
        while time.monotonic() < until:
            os.killpg(superexec.pid, 0)
            time.sleep(PAUSE)
        os.killpg(superexec.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
