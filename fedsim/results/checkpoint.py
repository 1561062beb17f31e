"""The checkpoint: a run's state after a whole round, in one atomically written file; and the clients' states beside it.

It is a safetensors file. Its arrays are the global model and the strategy's state; the rest is JSON text in its
metadata, with a hash of both, so that a truncated or changed file is never accepted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import Refused
from fedsim.results.files import Position, check_file, create_private, drafted, make_private_folder

FORMAT = 1
FOLDER = "checkpoint"
FILE, DATABASE = "last-round.safetensors", "clients.sqlite"
Tree = Any  # nested dicts with string keys and lists of arrays and JSON scalars
BEGIN_AGAIN = f"without the folder {FOLDER} the run begins again at round 1"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run after a whole round.

    Attributes:
        run_id: The run's, as in its manifest.
        experiment_sha256: Hash of the experiment without `[runtime]`.
        data_sha256: Hash of the data.
        round: The last whole round, from 1.
        over: Whether the run ended early with it.
        wall_seconds: Duration of the run so far, over all its sessions.
        files: Position of each growing file.
        client_states: Hash of the clients' states, which are in a file beside it.
        state: The server's state.
    """

    run_id: str
    experiment_sha256: str
    data_sha256: str
    round: int
    over: bool
    wall_seconds: float
    files: dict[str, Position]
    client_states: str
    state: Tree

    def write(self, state: Path) -> None:
        """Replace the former checkpoint; raises `ValueError` for a state that can't be stored."""
        from safetensors.numpy import save_file

        fields = {name: value for name, value in vars(self).items() if name not in ("files", "state")}
        tree, arrays = take_apart(self.state, "state")
        files = {name: asdict(position) for name, position in self.files.items()}
        text = json.dumps({"format": FORMAT, **fields, "files": files, "state": tree})
        arrays = {name: np.require(a, a.dtype.newbyteorder("="), "C") for name, a in arrays.items()}
        make_private_folder(state / FOLDER)
        with drafted(state / FOLDER / FILE, private=True) as draft:
            save_file(arrays, draft, {"checkpoint": text, "sha256": _sha256(text, arrays)})


def read_checkpoint(state: Path) -> Checkpoint | None:
    """Return a state folder's checkpoint, or None; raises `Refused` if damaged, or of an unknown format."""
    path = state / FOLDER / FILE
    if not check_file(path):
        return None
    try:
        return _parse(*_read(path))
    except Refused:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{FOLDER}/{FILE}: is damaged ({error}); {BEGIN_AGAIN}") from None


def _parse(text: str, sha256: str, arrays: dict[str, NDArray[Any]]) -> Checkpoint:
    fields = json.loads(text)
    known = fields.pop("format")
    if known != FORMAT:
        raise Refused(f"{FOLDER}/{FILE}: has format {known}; this version of fedsim reads {FORMAT}")
    if _sha256(text, arrays) != sha256:
        raise ValueError("its hash is another")
    fields["files"] = {name: Position(**position) for name, position in fields["files"].items()}
    fields["state"] = put_together(fields["state"], arrays)
    return Checkpoint(**fields)


def _read(path: Path) -> tuple[str, str, dict[str, NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return metadata["checkpoint"], metadata["sha256"], arrays


def _sha256(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# --- clients ---------------------------------------------------------------------------------------------

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
    """The clients' states between rounds, as bytes: a small database beside the checkpoint, in a state folder.

    A client without a state has none (`b""`); the file is made when the first has one. A round changes only its
    cohort's states, so only those are written. They are committed before the round's checkpoint is written, and the
    replaced ones stay until the next round: after a kill at any moment, the states of the checkpoint's round are there.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / FOLDER / DATABASE
        self._database: sqlite3.Connection | None = None
        self._digests: dict[int, int] = {}  # of each client that has or had a state
        self._replaced: list[tuple[int, int]] = []  # of the last round: client, round
        self._sum = 0

    @property
    def sha256(self) -> str:
        """A hash of all states, independent of their order: the sum of theirs."""
        return f"{self._sum:064x}"

    def keep(self, round_: int, states: Mapping[int, bytes]) -> None:
        """Commit the states after a round, of the clients with possibly changed ones; raises `OSError`."""
        digests = {client: _digest(client, state) for client, state in states.items()}
        changed = {client: d for client, d in digests.items() if d != self._digests.get(client, 0)}
        if not changed and not self._replaced:
            return
        try:
            with self._open() as database:
                database.executemany("DELETE FROM states WHERE client = ? AND round < ?", self._replaced)
                database.executemany(
                    "INSERT INTO states VALUES (?, ?, ?)",
                    [(client, round_, states[client]) for client in changed],
                )
        except sqlite3.OperationalError as error:  # as other files raise it
            is_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            code = errno.ENOSPC if is_full else errno.EIO
            raise OSError(code, os.strerror(code) if is_full else str(error), str(self._path)) from error
        self._replaced = [(client, round_) for client in changed if client in self._digests]
        self._note(changed)

    def load(self, round_: int) -> dict[int, bytes]:
        """Return the states as they were after a round; raises `Refused` if the file is damaged."""
        if not self._path.exists():
            return {}
        try:
            states: dict[int, bytes] = dict(self._open().execute(_NEWEST, [round_]))
        except sqlite3.Error as error:
            raise Refused(f"{FOLDER}/{DATABASE}: is damaged ({error}); {BEGIN_AGAIN}") from None
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
            check_file(self._path)  # SQLite would follow a link
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


# --- trees ----------------------------------------------------------------------------------------------


def take_apart(tree: Tree, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a tree as JSON that refers to arrays by name, and the arrays.

    Args:
        tree: Order, dtypes and bits are kept, but not the memory layout of arrays; a tuple becomes a list, a NumPy
            scalar a 0-d array.
        name: Prefix of the arrays' names.

    Raises:
        ValueError: A value can't be stored; the message says where.
    """
    arrays: dict[str, NDArray[Any]] = {}
    return _take(tree, name, arrays), arrays


def _take(node: Tree, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str):
                raise ValueError(f"{name} has the key {key!r}; strings are needed")
        return {"dict": {key: _take(value, f"{name}/{key}", arrays) for key, value in node.items()}}
    if isinstance(node, list | tuple):
        return {"list": [_take(value, f"{name}/{i}", arrays) for i, value in enumerate(node)]}
    if isinstance(node, np.ndarray | np.generic):
        if node.dtype.kind not in "biuf" or node.dtype.itemsize > 8:
            raise ValueError(
                f"{name} has dtype {node.dtype}; bool, integers or floats of up to 64 bits are needed"
            )
        while name in arrays:  # {"a/b": ...} beside {"a": {"b": ...}}
            name += "'"
        arrays[name] = np.asarray(node)
        return {"array": name}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise ValueError(
        f"{name} is a {type(node).__name__}; arrays, numbers, strings, dicts and lists are needed"
    )


def put_together(json: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Tree:
    """Return the tree of `take_apart`."""
    ((kind, content),) = json.items()
    match kind:
        case "dict":
            return {key: put_together(value, arrays) for key, value in content.items()}
        case "list":
            return [put_together(value, arrays) for value in content]
        case "array":
            return arrays[content]
        case "value":
            return content
        case _:
            raise ValueError(f"there is no {kind!r} in a tree")
