"""The process of one worker of a sweep: `python -m fedsim.sweeps.worker FD`, started by `fedsim.sweeps.pool`.

It runs one run after another, so that slow imports happen once.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fedsim.errors import Interrupted
from fedsim.experiment import Experiment
from fedsim.progress import Progress
from fedsim.references import load_reference
from fedsim.results.directory import STOP
from fedsim.results.run import Run
from fedsim.runtime.spec import CLIENT_APP, SERVER_APP
from fedsim.runtime.worker import end_with_parent
from fedsim.sweeps.pool import Ended, Order, Ready, RoundDone, Started
from fedsim.sweeps.state import State
from fedsim.tracking import Tracker


class _Pausing(Progress):
    """A listener that forwards its calls, and ends a run's session at its rung.

    A run that was killed at its rung pauses at once.
    """

    def __init__(self, order: Order, listener: Progress) -> None:
        self._order = order
        self._listener = listener

    def started(self, path: Path, rounds: int, done: int) -> None:
        self._listener.started(path, rounds, done)
        self._pause(done)

    def round_done(self, row: Mapping[str, Any]) -> None:
        self._listener.round_done(row)
        self._pause(row["round"])

    def stopping(self) -> None:
        self._listener.stopping()

    def _pause(self, done: int) -> None:
        if self._order.until is not None and done >= self._order.until:
            (self._order.path / STOP).touch()


class _Telling(Progress):
    """A listener that sends the runs' progress over a connection.

    Attributes:
        asked: Whether SIGTERM came between two runs; during a run, the run handles it.
    """

    def __init__(self, connection: Connection) -> None:
        self.asked = False
        self._connection = connection

    def on_signal(self, number: int, frame: object) -> None:
        self.asked = True

    def started(self, path: Path, rounds: int, done: int) -> None:
        self._send(Started(rounds, done))
        if self.asked:  # the signal came before the run could handle one
            os.kill(os.getpid(), signal.SIGTERM)

    def round_done(self, row: Mapping[str, Any]) -> None:
        self._send(RoundDone(row))

    def _send(self, said: Started | RoundDone) -> None:
        try:
            self._connection.send(said)
        except OSError:  # the sweep was killed, so its runs are killed, not failed
            os._exit(1)


def play(order: Order, listener: Progress) -> Ended:
    """Run to the end or the rung, from the last whole round if begun before."""
    try:
        trackers: list[Tracker] = pickle.loads(order.trackers) if order.trackers else []  # noqa: S301 (our own)
        _play(order, _Pausing(order, listener), trackers)
    except Interrupted:
        begun = (order.path / "manifest.json").is_file()
        if not begun or Run(order.path).status != "completed":  # else the signal came in its last round
            return Ended(_where(order) if begun else State.INTERRUPTED)
    except Exception as error:  # a run may fail in any way; the others continue
        return Ended(State.FAILED, " ".join(str(error).split()) or type(error).__name__)
    return Ended(State.COMPLETED)


def _where(order: Order) -> State:
    """Return whether an interrupted run is at its rung, and remove the file that stopped it there."""
    (order.path / STOP).unlink(missing_ok=True)
    at_rung = order.until is not None and len(Run(order.path).rows) >= order.until
    return State.PAUSED if at_rung else State.INTERRUPTED


def _play(order: Order, listener: Progress, trackers: Sequence[Tracker]) -> None:
    from fedsim.simulate import resume, run

    experiment = Experiment.from_toml(order.toml)
    if (order.path / "manifest.json").is_file():
        found, how = Run(order.path).manifest, experiment.runtime
        if found.get("resumable", True) or found.get("noise") != "seeded":
            resume(
                order.path, listener, trackers, engine=how.engine, workers=how.workers, address=how.address
            )
            return
        shutil.rmtree(order.path)  # a fresh start gives the same bits
    run(experiment, order.path, listener, trackers)


def main() -> None:
    """Run runs until the other end closes."""
    end_with_parent()
    connection = Connection(int(sys.argv[1]))
    telling = _Telling(connection)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the parent decides when to stop
    signal.signal(signal.SIGTERM, telling.on_signal)
    for app in (SERVER_APP, CLIENT_APP):
        load_reference(app)
    try:
        connection.send(Ready())
        while True:
            order: Order = connection.recv()
            connection.send(Ended(State.INTERRUPTED) if telling.asked else play(order, telling))
    except (EOFError, OSError):  # the other end is gone
        return


if __name__ == "__main__":
    main()
