"""Trackers: who else is told of a run's rounds, such as MLflow or TensorBoard; users write their own.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from fedsim.errors import Refused
from fedsim.progress import Progress
from fedsim.references import load_reference
from fedsim.results.disclosure import PUBLIC
from fedsim.results.run import Run

log = logging.getLogger(__name__)

# Short names for the command line, each of a class that takes where to write, empty for its own choice.
TRACKERS = {
    "mlflow": "fedsim.trackers.mlflow:MLflowTracker",
    "tensorboard": "fedsim.trackers.tensorboard:TensorBoardTracker",
}


class Tracker(Protocol):
    """Is told of a run.

    What it raises is logged, and it is told nothing more of that run: the run goes on without it.
    """

    def on_round(self, run: Run, row: Mapping[str, Any]) -> None:
        """A round has ended, and is safe from a kill; `row` is its row of `metrics.jsonl`."""

    def on_end(self, run: Run) -> None:
        """The run has ended; `run.status` says how."""


def tracker_of(text: str) -> Tracker:
    """Return the tracker of `--track`.

    Args:
        text: `"mlflow"` or `"tensorboard"`, or one of these with `":"` and where to write; or `"module:Class"` of one's
            own, which is called without arguments.

    Raises:
        Refused: There is no such tracker, or what it needs is not installed.
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
        own: Tracker = load_reference(text)()
    except Refused as refused:
        raise Refused(f"--track {refused}") from None
    except TypeError as error:
        raise Refused(f"--track {text!r}: can't be called without arguments: {error}") from None
    if lacks := [method for method in ("on_round", "on_end") if not callable(getattr(own, method, None))]:
        raise Refused(f"--track {text!r}: is no tracker: it has no {lacks[0]}")
    return own


def packed(trackers: Iterable[Tracker]) -> bytes:
    """Return trackers as bytes (a pickle), of which another process makes copies of its own.

    Raises:
        Refused: One can't be pickled, or is of a class that other processes do not find.
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
    """Refuses classes of the program's own file, whose name in another process is that one's own file."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class by its name."""
        if module == "__main__":
            raise Refused(
                f"tracker {name}: is of the program's own file; put it into a module, which workers can import"
            )
        return super().find_class(module, name)


def numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield what can be drawn of a row: its numbers, without the round's own."""
    for name, value in row.items():
        if name != "round" and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


@contextmanager
def tracked(path: Path, progress: Progress, trackers: Iterable[Tracker]) -> Iterator[Progress]:
    """Yield a progress that tells `progress` and the trackers of the run at `path`; at the end they hear of that."""
    telling = _Tracking(path, progress, list(trackers))
    try:
        yield telling
    finally:
        telling.end()


class _Tracking:
    """Tells a progress of all, and trackers of rounds and the end."""

    def __init__(self, path: Path, progress: Progress, trackers: Sequence[Tracker]) -> None:
        self._path = path
        self._progress = progress
        self._trackers = list(trackers)
        self._begun = False

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Pass it on."""
        self._begun = True
        self._progress.started(path, rounds, done)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Pass it on, and tell the trackers."""
        self._progress.round_done(row)
        self._tell(lambda tracker: tracker.on_round(Run(self._path), row))

    def stopping(self) -> None:
        """Pass it on."""
        self._progress.stopping()

    def end(self) -> None:
        """Tell the trackers, if the run has begun."""
        if self._begun:
            self._tell(lambda tracker: tracker.on_end(Run(self._path)))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # a server that does not answer must not cost a run
                self._trackers.remove(tracker)
                name = type(tracker).__name__
                said = "%s is told nothing more: %s: %s"
                log.warning(said, name, type(error).__name__, error, extra=PUBLIC)  # it knows what is public
