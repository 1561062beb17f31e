"""The server process that started this ServerApp, read from the ServerApp's environment."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fedsim.deployment.server.apps import APP_LOG, CLIENTS, KEYS, LOOPBACK, STATE
from fedsim.errors import Refused
from fedsim.experiment import Experiment

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ServerProcess:
    """A process of `fedsim server`, as its ServerApps see it.

    Attributes:
        state: Its state directory.
        keys: The folder of its keys; None: it was started with `--insecure`.
        loopback: Whether it can be reached from its own machine only.
    """

    state: Path
    keys: Path | None
    loopback: bool

    @classmethod
    def current(cls) -> ServerProcess | None:
        """Return the server process that started this one; None: `fedsim server` did not start it."""
        state, keys = os.environ.get(STATE), os.environ.get(KEYS)
        if not state:
            return None
        return cls(Path(state), Path(keys) if keys else None, bool(os.environ.get(LOOPBACK)))

    def run_path(self, name: str) -> Path:
        """Return the directory of a run; `Refused` for a name that is invalid: none may lead out of the folder of runs."""
        if not RUN_NAME.fullmatch(name):
            raise Refused(f"run-name = {name!r}: letters, digits, dot, hyphen and underscore are allowed")
        return self.state / "runs" / name

    @property
    def secrets(self) -> Path:
        """The folder of the runs' secret states, which resumed runs need; the server sends none of these files."""
        return self.state / "secrets"

    def log_to_server(self, run: str) -> None:
        """Send this process's log lines to the server's log, each with the run's name."""
        from fedsim.deployment.server.apps import log_to

        log_to(self.state / APP_LOG, run)

    def registered(self) -> dict[int, int] | None:
        """Return the client of each node whose key is registered; None where the server has no keys."""
        if self.keys is None:
            return None
        numbers = json.loads((self.state / CLIENTS).read_text())
        return {int(node): int(client) for client, node in numbers.items()}

    def identities(self) -> dict[int, bytes]:
        """Return the public identity key of each client, for signed secure aggregation; `Refused` without keys."""
        if self.keys is None:
            raise Refused(
                "privacy.secagg.adversary = 'malicious-server': clients sign with keys that are registered, and "
                "this server has none; allowed without keys: 'semi-honest'"
            )
        from fedsim.deployment.keys import load_registry  # not needed in simulations

        return load_registry(self.keys)

    def check(self, experiment: Experiment, code: str) -> None:
        """Refuse an experiment that this server can't run as the submitter, with a fedsim of digest `code`, meant it.

        Raises:
            Refused: The code (SHA-256, hex) is not this server's; or noise is seeded, and clients may be on other machines.
        """
        from fedsim.deployment.bundle import installed_code

        if code != installed_code():
            raise Refused(
                f"code = {code[:12]!r}: this server's is {installed_code()[:12]!r}; both must be the same fedsim"
            )
        if experiment.privacy.releases and experiment.privacy.noise == "seeded" and not self.loopback:
            raise Refused(
                "privacy.noise = 'seeded': the seed reveals the noise; allowed where clients are on other "
                "machines: 'os'"
            )
