"""Writes a run directory, readable while the run is alive, and resumable at any moment."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import Interrupted, Refused, Withheld
from fedsim.privacy.events import Event, Noise
from fedsim.results import secret_state
from fedsim.results.checkpoint import BEGIN_AGAIN, FOLDER, Checkpoint
from fedsim.results.client_states import ClientStates
from fedsim.results.cohort_notes import CohortNotes
from fedsim.results.disclosure import (
    LEDGER,
    METRICS,
    PRIVATE,
    is_discreet,
    mechanisms_of,
    public_manifest,
    public_row,
)
from fedsim.results.files import START, LineFile, Position, drafted, sync_folder, write_whole
from fedsim.results.ledger import LedgerFile
from fedsim.results.lock import Lock
from fedsim.results.manifest import changed_versions, experiment_manifest, session
from fedsim.results.private import ROWS, PrivateFiles
from fedsim.results.resumption import Resumption, check_data, examine
from fedsim.results.trees import Tree
from fedsim.tasks.metric import Scoring

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

log = logging.getLogger(__name__)

DRAFT = ".fedsim-draft-"
BEGUN = "round-begun"
STOP = "stop"
STALE = 3600.0  # seconds after which a draft must be a leftover of a kill


def default_run_path(experiment: Experiment) -> Path:
    """Return a path for a new run that does not exist: `runs/<name>-<UTC time>` under the current folder."""
    return free_run_path(experiment.name)


def free_run_path(name: str) -> Path:
    """Return `runs/<name>-<UTC time>` under the current folder, numbered if that exists."""
    stem = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    for attempt in range(1, 10_000):
        path = Path("runs") / (stem if attempt == 1 else f"{stem}-{attempt}")
        if not path.exists():
            return path.absolute()
    raise Refused(f"runs/{stem}: exists, and so do 10,000 like it")


def from_here(path: Path) -> Path:
    """Return a path relative to the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_free(path: Path) -> None:
    """Refuse a run directory that exists or can't be made; nothing is written.

    Raises:
        Refused: The path is taken, or its nearest existing folder can't be written to.
    """
    if path.exists() or path.is_symlink():
        raise Refused(f"--out {str(path)!r}: exists; a new directory is needed")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise Refused(f"--out {str(path)!r}: {str(parent)!r} can't be written to; a writable place is needed")


class RunDirectory:
    """A run directory, written by this process only.

    With the operating system's noise, values that no theorem covers go to `private/` (`fedsim.results.disclosure`).
    Files appear whole; `metrics.jsonl` grows by a synced line a round, followed by a checkpoint. As a context manager
    it marks the run completed, interrupted, or failed with the reason, when the block ends.

    Attributes:
        path: The directory.
        resumed_from: The checkpoint to resume from; None: the run begins at round 1.
        client_states: The clients' states in that checkpoint, as bytes.
        ledger: The privacy events; None: the experiment has no mechanism.
        events: Events before the resumed round.
        private: Files that are not public; None: all are.
    """

    def __init__(self, path: Path, lock: Lock, manifest: dict[str, Any], state: Path) -> None:
        self.path = path
        self._state = state  # the state folder: outside the directory if secret
        self.resumed_from: Checkpoint | None = None
        self.client_states: dict[int, bytes] = {}
        self._lock = lock
        self._manifest = manifest
        self.events: list[Event] = []
        self.private = PrivateFiles.of(path) if is_discreet(manifest.get("noise", Noise.SEEDED)) else None
        self._mechanisms = () if self.private is None else mechanisms_of(path)
        self.ledger: LedgerFile | None = None
        ledger = path / LEDGER if self.private is None else path / PRIVATE / LEDGER
        if ledger.exists():
            self.ledger = LedgerFile(
                ledger, lasting=manifest["noise"] == Noise.SYSTEM, own=manifest.get("mechanism", "")
            )
        self._metrics = LineFile(path / METRICS)
        self._states = ClientStates(state)
        self._cohorts = CohortNotes(state)
        self._started = time.perf_counter()
        self._wall_before = 0.0  # seconds of the sessions before this one
        self._last: dict[str, Any] = {}

    # --- beginning --------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Path,
        experiment: Experiment,
        data_sha256: str,
        not_resumable: str | None = None,
        home: Path | None = None,
    ) -> RunDirectory:
        """Make the directory of an experiment's run, with `experiment.toml` and empty metrics.

        Args:
            path: Must not exist.
            experiment: What is run.
            data_sha256: Hash of its data.
            not_resumable: Why no checkpoints can be written, if so.
            home: The folder of secret states; None: this user's.

        Raises:
            Refused: The path exists or can't be written.
        """
        files = {"experiment.toml": experiment.to_toml().encode(), METRICS: b""}
        manifest = experiment_manifest(experiment, data_sha256, not_resumable)
        if is_discreet(experiment.privacy.noise):
            public = public_manifest(manifest, experiment.privacy.mechanisms)
            held_back = {key: value for key, value in manifest.items() if key not in public}
            return cls.begin(path, public, files, held_back, home)
        if experiment.privacy.releases:
            files[LEDGER] = b""
        return cls.begin(path, manifest, files, home=home)

    @classmethod
    def begin(
        cls,
        path: Path,
        manifest: Mapping[str, Any],
        files: Mapping[str, bytes],
        held_back: Mapping[str, Any] | None = None,
        home: Path | None = None,
    ) -> RunDirectory:
        """Make the directory with some files and a manifest that says `running`.

        It is made under another name and renamed, so that a kill leaves none or a complete one. With `held_back`,
        values that the manifest omits, it has private files too. Secret state (`secret_state`) is outside, in `home`
        or this user's folder.

        Raises:
            Refused: The path exists or can't be written.
        """
        check_free(path)
        run_id = secrets.token_hex(16)
        whole = {"status": "running", "run-id": run_id, **manifest}
        draft = path.parent / f"{DRAFT}{run_id}"
        state = secret_state.state_of(path, whole, home)
        lock = None
        try:
            if state != path:
                secret_state.make(state, path)
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            draft.mkdir()
            lock = Lock(draft)
            for name, content in {**files, "manifest.json": _json(whole)}.items():
                write_whole(draft / name, content)
            if held_back is not None:
                PrivateFiles.begin(draft, held_back)
            draft.rename(path)
            sync_folder(path.parent)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if lock is not None:
                lock.release()
            if state != path and not path.exists():
                secret_state.erase(state)
            if isinstance(error, OSError):
                raise Refused(f"--out {str(path)!r}: {error.strerror}") from None
            raise
        return cls(path, lock, whole, state)

    @classmethod
    def reopen(cls, path: Path, data_sha256: str, home: Path | None = None) -> RunDirectory:
        """Resume a run that was killed, interrupted or failed, from its last checkpoint.

        Later lines are cut off: the rounds will write them again.

        Args:
            path: A run directory.
            data_sha256: Hash of the current data.
            home: The folder of secret states; None: this user's.

        Raises:
            Refused: It can't be resumed, or another process writes it; nothing was changed.
        """
        examine(path, home)  # before a lock file is put into what may be any folder
        try:
            lock = Lock(path)
        except OSError as error:
            raise Refused(f"run {str(path)!r}: {error.strerror}") from None
        try:
            found = examine(path, home)
            check_data(path, found, data_sha256)
            directory = cls(path, lock, found.manifest, found.state)
            directory._go_on(found)
        except BaseException:
            lock.release()
            raise
        return directory

    def _go_on(self, found: Resumption) -> None:
        checkpoint = self.resumed_from = found.checkpoint
        done = checkpoint.round if checkpoint else 0
        try:
            self.client_states = self._states.load(done)
            if checkpoint is not None and self._states.sha256 != checkpoint.client_states:
                raise Refused(f"{FOLDER}: the clients' states are not those of round {done}; {BEGIN_AGAIN}")
            if self.ledger is not None:
                self.events = self.ledger.go_on(checkpoint.files[LEDGER] if checkpoint else START)
            if self.private is not None:
                self.private.go_on(checkpoint.files[ROWS] if checkpoint else START)
        except Refused as refused:
            self._states.close()
            raise Refused(f"run {str(self.path)!r}: {refused}") from None
        self._wall_before = checkpoint.wall_seconds if checkpoint else 0.0
        self._states.cut(done)
        self._metrics = LineFile(self.path / METRICS, found.position)
        self._metrics.cut()
        for row in found.rows:
            self._last |= row
        self._note_session(done)

    def _note_session(self, done: int) -> None:
        """Note the session and its versions in the manifest; log changed versions."""
        if changes := changed_versions(self._manifest):
            log.warning(
                "%s is resumed with other versions than it began with: %s", self.path, ", ".join(changes)
            )
        self._manifest.setdefault("resumed", []).append({"from-round": done + 1, **session()})
        self._manifest["status"] = "running"
        (self.path / STOP).unlink(missing_ok=True)
        for key in ("error", "final", "wall-seconds", "pruned-after"):
            self._manifest.pop(key, None)
        self._write_manifest()

    # --- rounds -----------------------------------------------------------------------------------------

    def append_round(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append a round's row to `metrics.jsonl`, without unmeasured values.

        Return its public part, as written to the file.
        """
        public = self._public(row)
        if self.private is not None:
            self.private.append_round(row)
        self._metrics.append(public)
        self._last |= public
        return public

    def write_checkpoint(
        self, round_: int, over: bool, state: Tree, client_states: Mapping[int, bytes]
    ) -> None:
        """Write the checkpoint of a whole round, after its row was appended.

        Args:
            round_: The round.
            over: Whether the run ends with it, before the last.
            state: The server's state: nested dicts and lists of arrays and JSON scalars.
            client_states: Possibly changed states of clients, as bytes.

        Raises:
            ValueError: The state can't be stored.
        """
        self._states.keep(round_, client_states)
        Checkpoint(
            run_id=self._manifest["run-id"],
            experiment_sha256=self._manifest["experiment-sha256"],
            data_sha256=(self._manifest if self.private is None else self.private.manifest)["data-sha256"],
            round=round_,
            over=over,
            wall_seconds=self._wall_seconds(),
            files=self._positions(),
            client_states=self._states.sha256,
            state=state,
        ).write(self._state)

    def _positions(self) -> dict[str, Position]:
        """Return the position of each growing file."""
        ledger = {} if self.ledger is None else {LEDGER: self.ledger.position}
        private = {} if self.private is None else {ROWS: self.private.position}
        return {METRICS: self._metrics.position, **ledger, **private}

    def note_begun(self, round_: int) -> None:
        """Note, durably, that clients are about to be asked to train in an unrepeatable round."""
        write_whole(self._state / BEGUN, f"{round_}\n".encode(), private=self.has_secrets)

    @property
    def begun(self) -> int:
        """The last round noted by `note_begun`, or 0."""
        file = self._state / BEGUN
        return int(file.read_text()) if file.exists() else 0

    @property
    def has_secrets(self) -> bool:
        """Whether the state is secret, and outside the directory."""
        return self._state != self.path

    def note_cohort(self, round_: int, clients: Sequence[int]) -> None:
        """Note, durably, the secretly drawn cohort of a round before its clients are asked."""
        self._cohorts.note(round_, clients)

    def cohorts(self) -> dict[int, list[int]]:
        """Return the noted cohorts by round; raises `Refused` if they are damaged."""
        return self._cohorts.load()

    def noise_key(self) -> bytes:
        """Return the secret key of the run's noise, the same in all of its sessions; raises `Refused`.

        Raises:
            ValueError: There is no secret folder to keep it in.
        """
        if not self.has_secrets:
            raise ValueError(f"{self.path}: its state is not secret, so a key in it would not be either")
        return secret_state.key_in(self._state)

    def stop_asked(self) -> bool:
        """Return whether a file `stop` asks the run to end after the current round."""
        return (self.path / STOP).exists()

    def note_privacy(self, report: Mapping[str, Any]) -> None:
        """Write the run's cost by adversary, and the epsilon spent so far, into the manifest."""
        self._manifest["epsilon"] = dict(report)
        self._write_manifest()

    def note_secure_aggregation(self, report: Mapping[str, Any]) -> None:
        """Write secure aggregation's guarantee and assumptions into the manifest."""
        self._manifest["secure-aggregation"] = dict(report)
        self._write_manifest()

    def note_fields(self, numbers: int, size: int) -> None:
        """Write how much of an update the algorithm's fields are, in numbers and bytes, into the manifest."""
        self._manifest["fields"] = {"numbers": numbers, "bytes": size}
        self._write_manifest()

    # --- ending -----------------------------------------------------------------------------------------

    def write_model(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Write the final weights to `model.safetensors`, under the names of the model's state."""
        from safetensors.numpy import save_file

        with drafted(self.path / "model.safetensors") as draft:
            save_file({name: np.require(array, requirements="C") for name, array in arrays.items()}, draft)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._states.close()
            self._manifest["status"] = _status(raised)
            if raised is not None:
                self._manifest["error"] = self._reason(raised)
            wall_seconds = round(self._wall_seconds(), 3)
            if self.private is not None:
                self.private.end(wall_seconds)
            self._manifest["wall-seconds"] = wall_seconds
            self._manifest["final"] = {
                k: v for k, v in self._last.items() if k not in ("seconds", "failure-reasons")
            }
            self._write_manifest()
            if self.has_secrets and raised is None:
                secret_state.erase(self._state)
        finally:
            self._lock.release()

    def _reason(self, raised: BaseException) -> str:
        """Return why the run has ended, or, if that is not public, where the reason is."""
        if isinstance(raised, KeyboardInterrupt):
            return "interrupted"
        if self.private is None or isinstance(raised, Withheld | Interrupted | Refused):
            return str(raised) or type(raised).__name__
        self.private.note_error(raised)
        return str(Withheld())

    def _wall_seconds(self) -> float:
        return self._wall_before + time.perf_counter() - self._started

    def _write_manifest(self) -> None:
        tree = self._manifest if self.private is None else public_manifest(self._manifest, self._mechanisms)
        write_whole(self.path / "manifest.json", _json(tree))

    def _public(self, row: dict[str, Any]) -> dict[str, Any]:
        return row if self.private is None else public_row(row, self._mechanisms, Scoring.of(self._manifest))


def _status(raised: BaseException | None) -> str:
    if raised is None:
        return "completed"
    return "interrupted" if isinstance(raised, Interrupted | KeyboardInterrupt) else "failed"


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=2).encode() + b"\n"


def _sweep(folder: Path) -> None:
    """Remove drafts of run directories left by kills."""
    for draft in folder.glob(f"{DRAFT}*"):
        with suppress(OSError):  # another process was faster
            if time.time() - draft.stat().st_mtime > STALE:
                shutil.rmtree(draft)
