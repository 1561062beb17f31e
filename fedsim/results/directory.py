"""Writes a run directory, readable while the run is alive, and resumable at any moment."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import BrokenOff, Interrupted, Refused, Withheld
from fedsim.privacy.events import Event, Noise
from fedsim.results import secret_state
from fedsim.results.checkpoint import BEGIN_AGAIN, FOLDER, Checkpoint, ClientStates, Tree
from fedsim.results.disclosure import (
    EXPERIMENT,
    LEDGER,
    MANIFEST,
    METRICS,
    MODEL,
    PRIVATE,
    ROWS,
    is_restricted,
    mechanisms_of,
    public_manifest,
    public_row,
)
from fedsim.results.files import (
    DRAFT,
    START,
    LineFile,
    drafted,
    drafted_folder,
    json_document,
    read_file,
    remove_drafts,
    sweep_drafts,
    unless_damaged,
    write_whole,
)
from fedsim.results.ledger import LedgerFile
from fedsim.results.lock import Lock
from fedsim.results.manifest import changed_versions, experiment_manifest, session
from fedsim.results.private import PrivateFiles
from fedsim.results.resumption import Resumption, check_data, examine, ledger_in
from fedsim.tasks.metric import Scoring

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

log = logging.getLogger(__name__)

BEGUN = "round-begun"
STOP = "stop"


@contextmanager
def new_run_path(out: str | Path | None, name: str) -> Iterator[Path]:
    """Yield a new run's path: `out`, or `runs/<name>-<UTC time>` under the current folder, numbered if that is taken.

    Inside the block, and until the run has begun, no other caller gets the same default: an empty folder beside it, made
    atomically, says that it is taken.

    Raises:
        Refused: `out` exists, or can't be made.
    """
    if out is not None:
        path = Path(out).absolute()
        check_free(path)
        yield path
        return
    path = _claimed(f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    try:
        yield path
    finally:
        _release(path)


def _claimed(stem: str) -> Path:
    """Claim the first free number of a default path."""
    for attempt in range(1, 10_000):
        path = Path("runs").absolute() / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            _claim_of(path).mkdir(parents=True)
        except (FileExistsError, FileNotFoundError):  # taken; or another one's release has removed `runs`
            continue
        except OSError as error:
            raise Refused(f"--out {str(path)!r}: {error.strerror}; a writable place is needed") from None
        if not path.exists():
            return path
        _release(path)
    raise Refused(f"runs/{stem}: exists, and so do 10,000 like it")


def _release(path: Path) -> None:
    """Give up the claim to a path, if there is one; where nothing is beside it, its folder goes too."""
    with suppress(OSError):
        _claim_of(path).rmdir()
        path.parent.rmdir()


def _claim_of(path: Path) -> Path:
    return path.with_name(f"{DRAFT}{path.name}")


def from_here(path: Path) -> Path:
    """Return a path relative to the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_free(path: Path) -> None:
    """Raise `Refused` for a run directory that exists or can't be made; nothing is written."""
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
        self.resumed_from: Checkpoint | None = None
        self.client_states: dict[int, bytes] = {}
        self.events: list[Event] = []
        self._lock = lock
        self._manifest = manifest
        self._state = state  # the state folder: outside the directory if secret
        self.private = PrivateFiles(path) if is_restricted(manifest.get("noise", Noise.SEEDED)) else None
        self._mechanisms = () if self.private is None else mechanisms_of(path)
        self.ledger: LedgerFile | None = None
        ledger = ledger_in(path, manifest)
        if ledger.exists():
            self.ledger = LedgerFile(
                ledger, lasting=manifest["noise"] == Noise.SYSTEM, own=manifest.get("mechanism", "")
            )
        self._metrics = LineFile(path / METRICS)
        self._states = ClientStates(state)
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

        `not_resumable` says why no checkpoints can be written, if so; `home` and errors are as in `begin`.
        """
        files = {EXPERIMENT: experiment.to_toml().encode(), METRICS: b""}
        manifest = experiment_manifest(experiment, data_sha256, not_resumable)
        if is_restricted(experiment.privacy.noise):
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

        A kill leaves none or a complete one.

        Args:
            path: Must not exist.
            manifest: Without its status and `run-id`.
            files: Contents by name.
            held_back: Values that the manifest omits; with them the run has private files, too.
            home: The folder of secret states (`secret_state`); None: this user's.

        Raises:
            Refused: The path exists or can't be written.
        """
        check_free(path)
        whole = {"status": "running", "run-id": secrets.token_hex(16), **manifest}
        state = secret_state.state_of(path, whole, home)
        lock = None
        try:
            if state != path:
                secret_state.make(state, path)
            sweep_drafts(path.parent)
            with drafted_folder(path, "--out") as draft:
                lock = Lock(draft)
                for name, content in {**files, MANIFEST: json_document(whole)}.items():
                    write_whole(draft / name, content)
                if held_back is not None:
                    PrivateFiles.begin(draft, held_back)
        except BaseException:
            if lock is not None:
                lock.release()
            if state != path and not path.exists():
                secret_state.erase(state)
            raise
        _release(path)
        return cls(path, lock, whole, state)

    @classmethod
    def reopen(cls, path: Path, data_sha256: str, home: Path | None = None) -> RunDirectory:
        """Resume a run that was killed, interrupted or failed, from its last checkpoint.

        Later lines are cut off: the rounds will write them again. `data_sha256` is that of the current data.

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
            remove_drafts(path, path / PRIVATE, found.state, found.state / FOLDER)
            directory = cls(path, lock, found.manifest, found.state)
            directory._resume(found)
        except BaseException:
            lock.release()
            raise
        return directory

    def _resume(self, found: Resumption) -> None:
        checkpoint = self.resumed_from = found.checkpoint
        done = checkpoint.round if checkpoint else 0
        files = checkpoint.files if checkpoint else {}
        try:
            self.client_states = self._states.load(done)
            if checkpoint is not None and self._states.sha256 != checkpoint.client_states:
                raise Refused(f"{FOLDER}: the clients' states are not those of round {done}; {BEGIN_AGAIN}")
            if self.ledger is not None:
                self.events = self.ledger.resume(files.get(LEDGER, START))
            if self.private is not None:
                self.private.resume(files.get(ROWS, START))
        except Refused as refused:
            self._states.close()
            raise Refused(f"run {str(self.path)!r}: {refused}") from None
        self._wall_before = checkpoint.wall_seconds if checkpoint else 0.0
        self._states.cut(done)
        self._metrics = found.metrics
        self._metrics.cut()
        for row in found.rows:
            self._last |= row
        self._note_session(done)

    def _note_session(self, done: int) -> None:
        """Note the session and its versions in the manifest; log changed versions."""
        if changes := ", ".join(changed_versions(self._manifest)):
            log.warning("%s is resumed with other versions than it began with: %s", self.path, changes)
        self._manifest.setdefault("resumed", []).append({"from-round": done + 1, **session()})
        self._manifest["status"] = "running"
        (self.path / STOP).unlink(missing_ok=True)
        for key in ("error", "final", "wall-seconds", "pruned-after"):
            self._manifest.pop(key, None)
        self._write_manifest()

    # --- rounds -----------------------------------------------------------------------------------------

    def append_round(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append a round's row to `metrics.jsonl`, without unmeasured values, and return its public part."""
        public = row
        if self.private is not None:
            public = public_row(row, self._mechanisms, Scoring.of(self._manifest))
            self.private.append_round(row)
        self._metrics.append(public)
        self._last |= public
        return public

    def write_checkpoint(
        self, round_: int, over: bool, state: Tree, client_states: Mapping[int, bytes]
    ) -> None:
        """Write the checkpoint of a whole round, after its row was appended; raises `ValueError` for a foreign state.

        Args:
            round_: The round.
            over: Whether the run ends with it, before the last.
            state: The server's state.
            client_states: Possibly changed states of clients, as bytes.
        """
        self._states.keep(round_, client_states)
        files = {METRICS: self._metrics.position}
        if self.ledger is not None:
            files[LEDGER] = self.ledger.position
        if self.private is not None:
            files[ROWS] = self.private.position
        Checkpoint(
            run_id=self._manifest["run-id"],
            experiment_sha256=self._manifest["experiment-sha256"],
            data_sha256=(self._manifest if self.private is None else self.private.manifest)["data-sha256"],
            round=round_,
            over=over,
            wall_seconds=self._wall_seconds(),
            files=files,
            client_states=self._states.sha256,
            state=state,
        ).write(self._state)

    def end_with(self, final: Mapping[str, Any]) -> None:
        """Set what the manifest's `final` says of a run without rounds."""
        self._last = dict(final)

    def note_begun(self, round_: int) -> None:
        """Note, durably, that clients are about to be asked to train in an unrepeatable round."""
        write_whole(self._state / BEGUN, f"{round_}\n".encode(), private=self.has_secrets)

    @property
    def begun(self) -> int:
        """The last round noted by `note_begun`, or 0; raises `Refused` if the note is damaged."""
        file = self._state / BEGUN
        with unless_damaged(file):
            return int(read_file(file)) if file.exists() else 0

    @property
    def has_secrets(self) -> bool:
        """Whether the state is secret, and outside the directory."""
        return self._state != self.path

    def note_cohort(self, round_: int, clients: Sequence[int]) -> None:
        """Note, durably, the secretly drawn cohort of a round before its clients are asked."""
        secret_state.note_cohort(self._state, round_, clients)

    def cohorts(self) -> dict[int, list[int]]:
        """Return the noted cohorts by round; raises `Refused` if they are damaged."""
        return secret_state.cohorts_in(self._state)

    def noise_key(self) -> bytes:
        """Return the run's secret noise key, the same in all sessions; raises `Refused` for a damaged one."""
        if not self.has_secrets:
            raise ValueError(f"{self.path}: its state is not secret, so a key in it would not be either")
        return secret_state.key_in(self._state)

    def stop_asked(self) -> bool:
        """Return whether a file `stop` asks the run to end after the current round."""
        return (self.path / STOP).exists()

    def note_privacy(self, report: Mapping[str, Any]) -> None:
        """Write the run's cost by adversary, and the epsilon spent so far, into the manifest."""
        self._note("epsilon", dict(report))

    def note_secure_aggregation(self, report: Mapping[str, Any]) -> None:
        """Write secure aggregation's guarantee and assumptions into the manifest."""
        self._note("secure-aggregation", dict(report))

    def note_fields(self, numbers: int, size: int) -> None:
        """Write how much of an update the algorithm's fields are, in numbers and bytes, into the manifest."""
        self._note("fields", {"numbers": numbers, "bytes": size})

    def _note(self, key: str, value: dict[str, Any]) -> None:
        self._manifest[key] = value
        self._write_manifest()

    # --- ending -----------------------------------------------------------------------------------------

    def write_model(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Write the final weights to `model.safetensors`, under the names of the model's state."""
        from safetensors.numpy import save_file

        with drafted(self.path / MODEL) as draft:
            save_file({name: np.require(array, requirements="C") for name, array in arrays.items()}, draft)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(raised)
        except OSError as error:
            raised = error if raised is None or isinstance(raised, Withheld) else raised
        finally:
            self._lock.release()
        if isinstance(raised, OSError):
            raise self._broken_off(raised) from None

    def _end(self, raised: BaseException | None) -> None:
        """Write how the run has ended, and why."""
        if isinstance(raised, OSError):
            raised = self._broken_off(raised)
        try:
            self._manifest["status"] = "completed"
            if raised is not None:
                stopped = isinstance(raised, Interrupted | KeyboardInterrupt)
                self._manifest |= {
                    "status": "interrupted" if stopped else "failed",
                    "error": self._reason(raised),
                }
            wall_seconds = round(self._wall_seconds(), 3)
            if self.private is not None:
                self.private.end(wall_seconds)
            self._manifest["wall-seconds"] = wall_seconds
            final = {k: v for k, v in self._last.items() if k not in ("seconds", "failure-reasons")}
            self._note("final", final)
            if self.has_secrets and raised is None:
                secret_state.erase(self._state)
        finally:
            self._states.close()

    def _broken_off(self, error: OSError) -> BrokenOff:
        """Return the failure of a run that the operating system has kept from going on."""
        if not self.path.is_dir():
            return BrokenOff(f"run {str(self.path)!r}: its directory was removed while the run went on")
        where = "" if error.filename is None else f"{error.filename}: "
        why = f"{where}{error.strerror or error}"
        return BrokenOff(
            f"run {str(self.path)!r}: {why}; whole rounds are safe: fedsim resume, once that is mended"
        )

    def _reason(self, raised: BaseException) -> str:
        """Return why the run has ended, or, if that is not public, where the reason is."""
        if isinstance(raised, KeyboardInterrupt):
            return "interrupted"
        if self.private is None or isinstance(raised, Withheld | BrokenOff | Interrupted | Refused):
            return str(raised) or type(raised).__name__
        self.private.note_error(raised)
        return str(Withheld())

    def _wall_seconds(self) -> float:
        return self._wall_before + time.perf_counter() - self._started

    def _write_manifest(self) -> None:
        tree = self._manifest if self.private is None else public_manifest(self._manifest, self._mechanisms)
        write_whole(self.path / MANIFEST, json_document(tree))
