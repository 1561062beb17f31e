"""A deployed client's process: its folders, its keys and its ledger. A simulated client has no process of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context

from fedsim.experiment import Experiment
from fedsim.privacy.events import Event
from fedsim.results.files import open_file

if TYPE_CHECKING:
    from fedsim.deployment.keys import ClientKeys


@dataclass(frozen=True)
class ClientProcess:
    """A client process that `fedsim client` has started; it passes these paths in the node config.

    Attributes:
        state: Folder of the client's state.
        keys: Folder of the client's keys; None: the server asks for no keys.
        data: File of the client's own examples; None: it trains on its share of the experiment's data.
        loopback: Whether the server is on the same machine.
    """

    state: Path
    keys: Path | None
    data: Path | None
    loopback: bool

    @classmethod
    def of(cls, context: Context) -> ClientProcess | None:
        """Return the process of a client; None: the client is simulated, or runs in one of Flower's own nodes."""
        config = context.node_config
        if not config.get("deployed"):
            return None
        keys, data = (Path(str(config[name])) if config.get(name) else None for name in ("keys", "data"))
        return cls(Path(str(config["state"])), keys, data, bool(config.get("loopback")))

    def own_keys(self) -> ClientKeys:
        """Return the client's keys; `ValueError` if there are none, or they can't be read."""
        if self.keys is None:
            raise ValueError(
                "this client has no keys; privacy.secagg.adversary = 'malicious-server' needs them"
            )
        return _keys(self.keys)

    def check(self, experiment: Experiment) -> None:
        """Raise `ValueError` if the server, on another machine, knows the seed that the noise is derived from."""
        if experiment.privacy.releases and experiment.privacy.noise == "seeded" and not self.loopback:
            raise ValueError(
                "privacy.noise = 'seeded': the seed reveals the noise; allowed with a server on another machine: 'os'"
            )


@functools.lru_cache(maxsize=4)
def _keys(folder: Path) -> ClientKeys:
    from fedsim.deployment.keys import ClientKeys

    return ClientKeys.load(folder)


def run_label(context: Context) -> str:
    """Return the run's label in secure aggregation; a deployed run keeps its label when it is resumed."""
    return str(context.run_id if ClientProcess.of(context) is None else context.series_id)


def note_released(event: Event, context: Context, config: Mapping[str, Any]) -> None:
    """Append a release to the client's ledger, before the released value leaves the client.

    A client process keeps a ledger for each series of runs, `ledgers/<series>.jsonl` in its state directory; no message
    can change that path. A simulated client writes to the `ledger` that the message's config names, if it names one.
    """
    process, flags = ClientProcess.of(context), os.O_WRONLY | os.O_APPEND
    if process is not None:
        ledger = process.state / "ledgers" / f"{context.series_id}.jsonl"
        ledger.parent.mkdir(parents=True, exist_ok=True)
        flags |= os.O_CREAT
    elif "ledger" in config:
        ledger = Path(str(config["ledger"]))
    else:
        return
    file = open_file(ledger, flags, 0o600)
    try:
        os.write(file, event.dumps().encode() + b"\n")  # one write: clients' lines do not mix
        os.fsync(file)
    finally:
        os.close(file)
