"""The process of one worker of a sweep: `python -m fedsim.sweeps.worker FD`, started by `fedsim.sweeps.pool`.

It runs one run after another, so that slow imports happen once.
"""

from __future__ import annotations

import json
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
from fedsim.sweeps.messages import Ended, Order, Ready, RoundDone, Started
from fedsim.sweeps.state import State
from fedsim.tracking import Tracker


class _Stop:
    """Whether SIGTERM came between two runs; during a run, the run handles it."""

    asked = False

    def on_signal(self, number: int, frame: object) -> None:
        """Note the signal."""
        self.asked = True


class _Pausing:
    """A listener that ends a run's session at a rung, and forwards its calls."""

    def __init__(self, order: Order, listener: Progress) -> None:
        self._order = order
        self._listener = listener

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Forward it; a run that was killed at its rung pauses at once."""
        self._listener.started(path, rounds, done)
        self._pause(done)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Forward it, and end the session if this was the rung."""
        self._listener.round_done(row)
        self._pause(row["round"])

    def stopping(self) -> None:
        """Forward it."""
        self._listener.stopping()

    def _pause(self, done: int) -> None:
        if self._order.until is not None and done >= self._order.until:
            (self._order.path / STOP).touch()


class _Telling:
    """A listener that sends a run's progress over a connection."""

    def __init__(self, connection: Connection, stop: _Stop) -> None:
        self._connection = connection
        self._stop = stop

    def started(self, path: Path, rounds: int, done: int) -> None:
        """Send that the run begins, and forward a signal that came before it could handle one."""
        self._send(Started(rounds, done))
        if self._stop.asked:
            os.kill(os.getpid(), signal.SIGTERM)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Send that a round has ended."""
        self._send(RoundDone(row))

    def stopping(self) -> None:
        """Send nothing: the sweep sent the signal."""

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
    except Exception as error:  # a run may fail in any way; the others go on
        return Ended(State.FAILED, " ".join(str(error).split()) or type(error).__name__)
    return Ended(State.COMPLETED)


def _where(order: Order) -> State:
    """Return whether an interrupted run is at its rung, and remove the file that stopped it there."""
    (order.path / STOP).unlink(missing_ok=True)
    at_rung = order.until is not None and len(Run(order.path).rows) >= order.until
    return State.PAUSED if at_rung else State.INTERRUPTED


def _play(order: Order, listener: Progress, trackers: Sequence[Tracker]) -> None:
    from fedsim.simulate import resume, run

    manifest = order.path / "manifest.json"
    experiment = Experiment.from_toml(order.toml)
    if not manifest.is_file():
        run(experiment, order.path, listener, trackers)
        return
    found = json.loads(manifest.read_text())
    if not found["resumable"] and found["noise"] == "seeded":  # a fresh start gives the same bits
        shutil.rmtree(order.path)
        run(experiment, order.path, listener, trackers)
        return
    runtime = experiment.runtime
    resume(
        order.path,
        listener,
        trackers,
        engine=runtime.engine,
        workers=runtime.workers,
        address=runtime.address,
    )


def main() -> None:
    """Run runs until the other end closes."""
    end_with_parent()
    stop = _Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent to the whole group; the parent decides when to stop
    signal.signal(signal.SIGTERM, stop.on_signal)
    connection = Connection(int(sys.argv[1]))
    for app in (SERVER_APP, CLIENT_APP):
        load_reference(app)
    try:
        connection.send(Ready())
        while True:
            order: Order = connection.recv()
            connection.send(
                Ended(State.INTERRUPTED) if stop.asked else play(order, _Telling(connection, stop))
            )
    except (EOFError, OSError):  # the other end is gone
        return


if __name__ == "__main__":
    main()
