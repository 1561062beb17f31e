"""What a server process tells the ServerApps that it starts, by their environment: where they are deployed."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fedsim.deployment.environment import APP_LOG, CLIENTS, KEYS, LOOPBACK, STATE
from fedsim.errors import Refused
from fedsim.experiment import Experiment

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Deployment:
    """A server process, as its ServerApps see it.

    Attributes:
        state: Its folder.
        keys: The folder of its keys; None: it has none.
        loopback: Whether only this machine can reach it.
    """

    state: Path
    keys: Path | None
    loopback: bool

    @classmethod
    def current(cls) -> Deployment | None:
        """Return where this process is deployed; None: `fedsim server` did not start it."""
        state, keys = os.environ.get(STATE), os.environ.get(KEYS)
        if not state:
            return None
        return cls(Path(state), Path(keys) if keys else None, bool(os.environ.get(LOOPBACK)))

    def run_path(self, name: str) -> Path:
        """Return the directory of a run.

        Raises:
            Refused: The name is none: it may not lead out of the folder.
        """
        if not RUN_NAME.fullmatch(name):
            raise Refused(f"run-name = {name!r}: letters, digits, dot, hyphen and underscore are allowed")
        return self.state / "runs" / name

    @property
    def secrets(self) -> Path:
        """The folder of what runs go on from, where that is secret; none of it is handed out."""
        return self.state / "secrets"

    def speak(self, run: str) -> None:
        """Write what this process has to log, of a run, to the server's log."""
        from fedsim.deployment.app_log import speak

        speak(self.state / APP_LOG, run)

    def registered(self) -> dict[int, int] | None:
        """Return the client of each node whose key is registered; None where the server has no keys."""
        if self.keys is None:
            return None
        numbers = json.loads((self.state / CLIENTS).read_text())
        return {int(node): int(client) for client, node in numbers.items()}

    def identities(self) -> dict[int, bytes]:
        """Return the public identity key of each client, for signed secure aggregation.

        Raises:
            Refused: There are no keys.
        """
        if self.keys is None:
            raise Refused(
                "privacy.secagg.adversary = 'malicious-server': clients sign with keys that are registered, and "
                "this server has none; allowed without keys: 'semi-honest'"
            )
        from fedsim.deployment.keys import load_registry  # which simulations need not load

        return load_registry(self.keys)

    def check(self, experiment: Experiment, code: str) -> None:
        """Refuse an experiment that would not mean here what it means to whoever submits it.

        Args:
            experiment: What is to be run.
            code: The digest of the submitter's code.

        Raises:
            Refused: The code differs; or its noise follows from its seed, and clients may be elsewhere.
        """
        from fedsim.deployment.bundle import installed_code

        if code != installed_code():
            raise Refused(
                f"code = {code[:12]!r}: this server's is {installed_code()[:12]!r}; both must be the same fedsim"
            )
        if experiment.privacy.releases and experiment.privacy.noise == "seeded" and not self.loopback:
            raise Refused(
                "privacy.noise = 'seeded': whoever has the seed has the noise; allowed where clients are on other "
                "machines: 'os'"
            )
