"""`fedsim client`: check the options, join the server, answer messages until the process is told to end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.data.own import read_own
from fedsim.deployment.address import Address
from fedsim.deployment.client.client_loop import ClientLoop, Identity, Tell
from fedsim.deployment.client.connection import Connection, ServerEndpoint
from fedsim.deployment.client.state import State
from fedsim.deployment.keys import ClientKeys
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.runtime.spec import AppSpec


@dataclass(frozen=True)
class Options:
    """The options of `fedsim client`; see its help."""

    address: str
    state: Path
    keys: Path | None
    partition: int | None
    of: int | None
    data: Path | None
    only: Sequence[Path]
    insecure: bool
    quiet: bool


def run_client(options: Options) -> None:
    """Join, and answer messages until the process is told to end.

    Raises:
        Refused: An option is invalid, or the server refuses this client.
    """
    address = Address.parse(options.address)
    if options.insecure and not address.is_loopback:
        raise Refused(
            f"--on {options.address!r}: --insecure is for a server on this machine (127.0.0.1, ::1)"
        )
    if options.insecure == (options.keys is not None):
        raise Refused("--keys: is missing; allowed: --keys DIR, or --insecure for a server without keys")
    keys = None if options.keys is None else ClientKeys.load(options.keys)
    identity = _identity(options, keys, address.is_loopback)
    if options.data is not None:
        read_own(options.data, f"--data {str(options.data)!r}")
    only = [Experiment.load(path) for path in options.only]
    state = State(options.state)
    app = AppSpec(identity.clients, {}).load()
    tell: Tell = (lambda line: None) if options.quiet else _tell
    server = ServerEndpoint(str(address), None if keys is None else keys.root_certificates)
    connection = Connection(server, state.node_key() if keys is None else keys.node_key, tell)
    try:
        connection.join()
        tell(f"{identity.client} of {identity.clients} joined {address}")
        ClientLoop(connection, app, identity, state, only, tell).serve()
    finally:
        connection.leave()


def _tell(line: str) -> None:
    sys.stdout.write(f"fedsim client: {line}\n")
    sys.stdout.flush()


def _identity(options: Options, keys: ClientKeys | None, loopback: bool) -> Identity:
    """Return this client's identity; raises `Refused` where the options don't give it, or contradict the keys."""
    if keys is None:
        if options.partition is None or options.of is None:
            raise Refused(
                "--partition and --of: are missing; without keys nothing else says which client this is"
            )
        if options.partition >= options.of:
            raise Refused(f"--partition {options.partition}: must be below --of {options.of}")
        return Identity(options.partition, options.of, None, options.data, loopback)
    number, size = keys.number, len(keys.registry)
    for option, given, theirs in (("--partition", options.partition, number), ("--of", options.of, size)):
        if given not in (None, theirs):
            raise Refused(
                f"{option} {given}: the keys in {str(options.keys)!r} are client {number}'s of {size}"
            )
    return Identity(number, size, options.keys, options.data, loopback)
