"""`fedsim client`: check the options, join the server, answer messages until the process is told to end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flwr.app import UserConfig

from fedsim.data.own import read_own
from fedsim.deployment.client.client_loop import ClientLoop, Tell
from fedsim.deployment.client.connection import Connection
from fedsim.deployment.client.state import State
from fedsim.deployment.keys import ClientKeys
from fedsim.deployment.wire import Address
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.runtime.spec import AppSpec


def run_client(
    on: str,
    state_folder: Path,
    key_folder: Path | None,
    partition: int | None,
    of: int | None,
    data: Path | None,
    only: Sequence[Path],
    insecure: bool,
    quiet: bool,
) -> None:
    """Join, and answer messages until the process is told to end; the options are those of `fedsim client`.

    Raises:
        Refused: An option is invalid, or the server refuses this client.
    """
    address = Address.parse(on)
    if insecure and not address.is_loopback:
        raise Refused(f"--on {on!r}: --insecure is for a server on this machine (127.0.0.1, ::1)")
    if insecure == (key_folder is not None):
        raise Refused("--keys: is missing; allowed: --keys DIR, or --insecure for a server without keys")
    keys = None if key_folder is None else ClientKeys.load(key_folder)
    client, clients = _place(keys, key_folder, partition, of)
    if data is not None:
        read_own(data, f"--data {str(data)!r}")
    experiments = [Experiment.load(path) for path in only]
    state = State(state_folder)
    node_config: UserConfig = {
        "partition-id": client,
        "num-partitions": clients,
        "deployed": True,
        "state": str(state.folder),
        "keys": "" if keys is None else str(keys.folder),
        "data": "" if data is None else str(data.absolute()),
        "loopback": address.is_loopback,
    }
    app = AppSpec(clients, {}).load()
    tell: Tell = (lambda line: None) if quiet else _tell
    root, key = (None, state.node_key()) if keys is None else (keys.root_certificates, keys.node_key)
    connection = Connection(str(address), root, key, tell)
    try:
        connection.join()
        tell(f"{client} of {clients} joined {address}")
        ClientLoop(connection, app, node_config, state, experiments, tell).serve()
    finally:
        connection.leave()


def _tell(line: str) -> None:
    sys.stdout.write(f"fedsim client: {line}\n")
    sys.stdout.flush()


def _place(
    keys: ClientKeys | None, folder: Path | None, partition: int | None, of: int | None
) -> tuple[int, int]:
    """Return this client's number and how many there are.

    Raises:
        Refused: The options don't give them, or contradict the keys.
    """
    if keys is None:
        if partition is None or of is None:
            raise Refused(
                "--partition and --of: are missing; without keys nothing else says which client this is"
            )
        if partition >= of:
            raise Refused(f"--partition {partition}: must be below --of {of}")
        return partition, of
    number, size = keys.number, len(keys.registry)
    for option, given, theirs in (("--partition", partition, number), ("--of", of, size)):
        if given not in (None, theirs):
            raise Refused(f"{option} {given}: the keys in {str(folder)!r} are client {number}'s of {size}")
    return number, size
