"""Trackers: further receivers of a run's rounds, such as MLflow or TensorBoard; users can write their own.

>>> class Printer:
...     def on_round(self, run, row):
...         print(row["round"], row.get("accuracy"))
...     def on_end(self, run):
...         print(run.status)
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedsim.errors import Refused
from fedsim.progress import Progress
from fedsim.references import check_makes, load_reference
from fedsim.results.disclosure import PUBLIC
from fedsim.results.run import Run

log = logging.getLogger(__name__)

# Short names for the command line, of classes that take a destination (empty: their default).
TRACKERS = {
    "mlflow": "fedsim.trackers.mlflow:MLflowTracker",
    "tensorboard": "fedsim.trackers.tensorboard:TensorBoardTracker",
}


@runtime_checkable
class Tracker(Protocol):
    """Receives a run's rounds and its end.

    An exception is logged, and the run continues without the tracker.
    """

    def on_round(self, run: Run, row: Mapping[str, Any]) -> None:
        """A round has ended and is durable; `row` is its row of `metrics.jsonl`."""

    def on_end(self, run: Run) -> None:
        """The run has ended; see `run.status`."""


def tracker_of(text: str) -> Tracker:
    """Return the tracker of `--track`.

    Args:
        text: `"mlflow"` or `"tensorboard"`, optionally with `":"` and a destination; or `"module:Class"` of one's
            own, called without arguments.

    Raises:
        Refused: There is no such tracker, or a library is not installed.
    """
    name, colon, place = text.partition(":")
    if name in TRACKERS:
        make: Callable[[str], Tracker] = load_reference(TRACKERS[name])
        return make(place)
    if not colon:
        raise Refused(
            f"--track {text!r}: there is no such name; allowed: {', '.join(TRACKERS)}, module:Class"
        )
    try:
        make_own = load_reference(text)
    except Refused as refused:
        raise Refused(f"--track {refused}") from None
    try:
        check_makes(make_own, "fedsim.tracking:Tracker")
        own: Tracker = make_own()
    except Refused as refused:
        raise Refused(f"--track {text!r}: {refused}") from None
    except TypeError as error:
        raise Refused(f"--track {text!r}: can't be called without arguments: {error}") from None
    if lacks := [method for method in ("on_round", "on_end") if not callable(getattr(own, method, None))]:
        raise Refused(f"--track {text!r}: is no tracker: it has no {lacks[0]}")
    return own


def packed(trackers: Iterable[Tracker]) -> bytes:
    """Return trackers as bytes (a pickle), for copies in another process.

    Raises `Refused` for one that can't be pickled, or is of a class that other processes do not find.
    """
    listed = list(trackers)
    for tracker in listed:
        try:
            _Importable(io.BytesIO(pickle.dumps(tracker))).load()
        except Refused:
            raise
        except Exception as error:  # what pickling calls may raise anything
            name = type(tracker).__name__
            raise Refused(f"tracker {name}: can't be copied to other processes: {error}") from None
    return pickle.dumps(listed) if listed else b""


class _Importable(pickle.Unpickler):
    """Refuses classes of the main program's file, which another process can't import."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__":
            raise Refused(
                f"tracker {name}: is of the program's own file; put it into a module, which workers can import"
            )
        return super().find_class(module, name)


@contextmanager
def tracked(path: Path, progress: Progress, trackers: Iterable[Tracker]) -> Iterator[Progress]:
    """Yield a listener that calls `progress` and the trackers for the run at `path`, and the trackers at its end."""
    listener = _Tracking(path, progress, trackers)
    try:
        yield listener
    finally:
        listener.end()


class _Tracking:
    """Calls a progress for everything, and trackers for rounds and the end."""

    def __init__(self, path: Path, progress: Progress, trackers: Iterable[Tracker]) -> None:
        self._path = path
        self._progress = progress
        self._trackers = list(trackers)
        self._begun = False

    def started(self, path: Path, rounds: int, done: int) -> None:
        self._begun = True
        self._progress.started(path, rounds, done)

    def round_done(self, row: Mapping[str, Any]) -> None:
        self._progress.round_done(row)
        self._tell(lambda tracker: tracker.on_round(Run(self._path), row))

    def stopping(self) -> None:
        self._progress.stopping()

    def end(self) -> None:
        """Call the trackers, if the run has begun."""
        if self._begun:
            self._tell(lambda tracker: tracker.on_end(Run(self._path)))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # an unavailable server must not end a run
                self._trackers.remove(tracker)
                names = type(tracker).__name__, type(error).__name__
                # Public, as trackers receive only public values.
                log.warning("%s is told nothing more: %s: %s", *names, error, extra=PUBLIC)
