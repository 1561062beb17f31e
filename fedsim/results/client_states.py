"""The clients' states between rounds: a small database beside the checkpoint.

A round changes only its cohort's states, so only those are written. They are committed before the round's checkpoint
is written, and the replaced ones stay until the next round: after a kill at any moment, the states of the
checkpoint's round are there.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from fedsim.errors import Refused
from fedsim.results.checkpoint import BEGIN_AGAIN, FOLDER
from fedsim.results.files import create_private, make_private_folder

FILE = "clients.sqlite"

_TABLE = "CREATE TABLE IF NOT EXISTS states (client INTEGER, round INTEGER, state BLOB, PRIMARY KEY (client, round))"
_NEWEST = (
    "SELECT client, state FROM states AS one WHERE round = "
    "(SELECT max(round) FROM states WHERE client = one.client AND round <= ?)"
)
_DROP_REPLACED = (
    "DELETE FROM states AS old WHERE EXISTS "
    "(SELECT 1 FROM states AS new WHERE new.client = old.client AND new.round > old.round)"
)


class ClientStates:
    """The states of a run's clients, as bytes; a client without one has none (`b""`).

    The file is made when the first client has a state, in the state folder (`secret_state`).
    """

    def __init__(self, state: Path) -> None:
        self._path = state / FOLDER / FILE
        self._database: sqlite3.Connection | None = None
        self._digests: dict[int, int] = {}  # of each client that has or had a state
        self._replaced: list[tuple[int, int]] = []  # of the last round: client, round
        self._sum = 0

    @property
    def sha256(self) -> str:
        """A hash of all states, independent of their order: the sum of theirs."""
        return f"{self._sum:064x}"

    def keep(self, round_: int, states: Mapping[int, bytes]) -> None:
        """Commit the states after a round, of the clients with possibly changed ones."""
        digests = {client: _digest(client, state) for client, state in states.items()}
        changed = {client: d for client, d in digests.items() if d != self._digests.get(client, 0)}
        if not changed and not self._replaced:
            return
        with self._open() as database:
            database.executemany("DELETE FROM states WHERE client = ? AND round < ?", self._replaced)
            database.executemany(
                "INSERT INTO states VALUES (?, ?, ?)",
                [(client, round_, states[client]) for client in changed],
            )
        self._replaced = [(client, round_) for client in changed if client in self._digests]
        self._note(changed)

    def load(self, round_: int) -> dict[int, bytes]:
        """Return the states as they were after a round; raises `Refused` if the file is damaged."""
        if not self._path.exists():
            return {}
        try:
            states: dict[int, bytes] = dict(self._open().execute(_NEWEST, [round_]))
        except sqlite3.Error as error:
            raise Refused(f"{FOLDER}/{FILE}: is damaged ({error}); {BEGIN_AGAIN}") from None
        self._note({client: _digest(client, state) for client, state in states.items()})
        return states

    def cut(self, round_: int) -> None:
        """Drop the states of later rounds, and those replaced up to this one."""
        if self._path.exists():
            with self._open() as database:
                database.execute("DELETE FROM states WHERE round > ?", [round_])
                database.execute(_DROP_REPLACED)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            make_private_folder(self._path.parent)
            create_private(self._path)  # an empty file is an empty database; its journals get the file's mode
            self._database = sqlite3.connect(self._path)
            self._database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
            self._database.execute(_TABLE)
        return self._database

    def _note(self, digests: Mapping[int, int]) -> None:
        for client, digest in digests.items():
            self._sum = (self._sum + digest - self._digests.get(client, 0)) % 2**256
            self._digests[client] = digest


def _digest(client: int, state: bytes) -> int:
    """Return a client's part of the hash; no state, no part."""
    return int.from_bytes(hashlib.sha256(b"%d\0" % client + state).digest(), "big") if state else 0
