"""Where a client lives: in a simulation, or in a process of its own with its own folders."""

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

if TYPE_CHECKING:
    from fedsim.deployment.keys import ClientKeys


@dataclass(frozen=True)
class Place:
    """A client process's own folders; `fedsim client` puts them into the node config.

    Attributes:
        state: What it keeps.
        keys: Its keys; None: it has none.
        data: Its own examples; None: it has its share of the experiment's.
        loopback: Whether its server is on this machine.
    """

    state: Path
    keys: Path | None
    data: Path | None
    loopback: bool

    @classmethod
    def of(cls, context: Context) -> Place | None:
        """Return a client's place; None: it is simulated, or one of Flower's own nodes."""
        config = context.node_config
        if not config.get("deployed"):
            return None
        keys, data = (Path(str(config[name])) if config.get(name) else None for name in ("keys", "data"))
        return cls(Path(str(config["state"])), keys, data, bool(config.get("loopback")))

    def own_keys(self) -> ClientKeys:
        """Return its keys.

        Raises:
            ValueError: It has none, or they can't be read.
        """
        if self.keys is None:
            raise ValueError("this client has no keys, which a malicious server makes necessary")
        return _keys(self.keys)

    def check(self, experiment: Experiment) -> None:
        """Refuse an experiment whose noise would hide nothing from a server elsewhere.

        Raises:
            ValueError: It follows from the seed, which the server has.
        """
        if experiment.privacy.releases and experiment.privacy.noise == "seeded" and not self.loopback:
            raise ValueError(
                "privacy.noise = 'seeded': whoever has the seed has the noise; allowed beyond this machine: 'os'"
            )


@functools.lru_cache(maxsize=4)
def _keys(folder: Path) -> ClientKeys:
    from fedsim.deployment.keys import ClientKeys

    return ClientKeys.load(folder)


def run_label(context: Context) -> str:
    """Return what a run is called in secure aggregation: deployed, a run that is resumed is the same one."""
    return str(context.run_id if Place.of(context) is None else context.series_id)


def note_released(event: Event, context: Context, config: Mapping[str, Any]) -> None:
    """Write down what a client releases, before it leaves the client.

    A client process has a ledger of its own for each run, `ledgers/<series>.jsonl` in its state directory, and no
    message has a say in where. A simulated client writes to the `ledger` that the message's config names, if it does.
    """
    place = Place.of(context)
    if place is not None:
        file = place.state / "ledgers" / f"{context.series_id}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        _append(event, file, os.O_CREAT)
    elif "ledger" in config:
        _append(event, Path(str(config["ledger"])))


def _append(event: Event, ledger: Path, flags: int = 0) -> None:
    """Add an event, durably, to a ledger that several clients may write."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | flags, 0o600)
    try:
        os.write(file, event.dumps().encode() + b"\n")  # one write: no line of another client comes between
        os.fsync(file)
    finally:
        os.close(file)
