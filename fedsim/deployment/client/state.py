"""A client's state directory: the states of its runs, and the rounds that it took part in.

    STATE/contexts/<series>     the state of a series of runs (a run and those that resume it), in Flower's encoding
    STATE/notes.jsonl           a line for each round in which it has sent an update: series, run, round, time
    STATE/node.key              its node key, if it was started without a key folder

An open session of secure aggregation stays in memory: its secrets must not outlive the process.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, RecordDict

from fedsim.deployment.keys import private_pem
from fedsim.errors import Refused
from fedsim.flower.records import decode_records, encode_records
from fedsim.results.files import check_folder, open_file, read_file, remove_drafts, write_whole
from fedsim.results.lock import Held, Lock
from fedsim.secagg.messages import RECORD as SESSION

CONTEXTS, NOTES, NODE_KEY = "contexts", "notes.jsonl", "node.key"


class State:
    """A client's state directory, locked until this process ends.

    Raises:
        Refused: Another process has locked it, it can't be written to, or its notes are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._sessions: dict[int, ConfigRecord] = {}
        self._newest: tuple[int, bytes] = (0, b"")  # series and content of the last file read or written
        try:
            (self.folder / CONTEXTS).mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
            check_folder(self.folder / CONTEXTS)
            self._lock = Lock(self.folder)
            remove_drafts(self.folder, self.folder / CONTEXTS)
            self._noted = _read_notes(self.folder / NOTES)
        except Held:
            why = "another process uses it; each client has its own"
            raise Refused(f"--state {str(folder)!r}: {why}") from None
        except ValueError as error:
            raise Refused(f"--state {str(folder)!r}: {error}") from None
        except OSError as error:
            raise Refused(f"--state {str(folder)!r}: can't be written to: {error.strerror}") from None

    def node_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the node key of a client without a key folder; made on first use. Raises `Refused`."""
        path = self.folder / NODE_KEY
        try:
            if not path.exists():
                write_whole(path, private_pem(ec.generate_private_key(ec.SECP384R1())), private=True)
            key = serialization.load_pem_private_key(read_file(path), password=None)
        except (OSError, ValueError) as error:
            raise Refused(f"--state: {str(path)!r} can't be used: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Refused(f"--state: {str(path)!r} is not an EC private key")
        return key

    def load(self, series: int) -> RecordDict:
        """Return the state of a series, empty at first; raises `OSError`, and `ValueError` if it is damaged."""
        path = self._path(series)
        if self._newest[0] != series:
            self._newest = series, read_file(path) if path.exists() else b""
        try:
            state = decode_records(self._newest[1])
        except Exception as error:  # bytes that are no state raise exceptions of many classes
            raise ValueError(f"{path}: is damaged ({error})") from None
        if series in self._sessions:
            state[SESSION] = self._sessions[series]
        return state

    def save(self, series: int, state: RecordDict) -> None:
        """Write the state of a series to the disk, durably; an open session is kept in memory.

        Where this raises `OSError`, the former state stays, and an open session is lost.
        """
        self._sessions.pop(series, None)
        kept = RecordDict({name: record for name, record in state.items() if name != SESSION})
        content = encode_records(kept, deterministic=True)
        if self._newest != (series, content):
            write_whole(self._path(series), content)
            self._newest = series, content
        session = state.get(SESSION)
        if isinstance(session, ConfigRecord):
            self._sessions[series] = session

    def _path(self, series: int) -> Path:
        return self.folder / CONTEXTS / str(series)

    def has_noted(self, series: int, round_: int) -> bool:
        """Return whether this client may have sent an update in a round of a series."""
        return (series, round_) in self._noted

    def note(self, series: int, run: str, round_: int) -> None:
        """Note, durably, that this client is about to send an update in a round; raises `OSError`."""
        if self.has_noted(series, round_):
            return
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"series": series, "run": run, "round": round_, "time": time}).encode() + b"\n"
        file = open_file(self.folder / NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            before = os.fstat(file).st_size
            if os.write(file, line) != len(line):
                os.ftruncate(file, before)
                raise OSError("no space for a whole line")
            os.fsync(file)
        finally:
            os.close(file)
        self._noted.add((series, round_))


def _read_notes(path: Path) -> set[tuple[int, int]]:
    """Read the notes, and cut off an incomplete last line, which a kill may leave; raises `ValueError`."""
    if not path.exists():
        return set()
    content = read_file(path)
    whole = content[: content.rfind(b"\n") + 1]
    try:
        notes = {(int(note["series"]), int(note["round"])) for note in map(json.loads, whole.splitlines())}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{NOTES} is damaged; a line of JSON for each round is needed") from None
    if len(whole) < len(content):
        with os.fdopen(open_file(path, os.O_WRONLY), "wb") as file:
            file.truncate(len(whole))
    return notes
