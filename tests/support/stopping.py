"""Stopping a run in the middle, in the tests' own process."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from flwr.serverapp.strategy import FedAvg

import fedsim
from fedsim import Experiment
from fedsim.results.checkpoint import Checkpoint, read_checkpoint
from fedsim.server.evaluation import Evaluation
from fedsim.tracking import Tracker


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Listener:
    """Notes what a progress display hears, and does something after a round."""

    def __init__(self, after: int = 0, action: Callable[[], None] = lambda: None) -> None:
        self.heard: list[Any] = []
        self.after, self.action = after, action

    def started(self, path: Path, rounds: int, done: int) -> None:
        self.heard.append((path, rounds, done))

    def round_done(self, row: Mapping[str, Any]) -> None:
        self.heard.append(row["round"])
        if row["round"] == self.after:
            self.action()

    def stopping(self) -> None:
        self.heard.append("stopping")


def die() -> None:
    raise Killed


def fail_in(
    patch: pytest.MonkeyPatch,
    step: Literal["aggregation", "evaluation"],
    round_: int,
    how: Callable[[], None] = die,
) -> None:
    """Have a run fail in a step of a round: where FedAvg gets its updates, or where the model that came of it is scored."""
    kind, name = {"aggregation": (FedAvg, "aggregate_train"), "evaluation": (Evaluation, "scores")}[step]
    real = getattr(kind, name)

    def failing(self: Any, number: int, *rest: Any) -> Any:
        if number == round_:
            how()
        return real(self, number, *rest)

    patch.setattr(kind, name, failing)


def signal_myself(*numbers: signal.Signals) -> Callable[[], None]:
    """Return an action that sends signals to this process."""

    def act() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return act


def stopped(setting: Experiment, out: str, after: int = 2, trackers: Iterable[Tracker] = ()) -> Path:
    """Run an experiment up to the end of a round, and no further."""
    with pytest.raises(Killed):
        fedsim.run(setting, out, Listener(after, die), trackers)
    return Path(out)


def change(path: Path, name: str, edit: Callable[[Any], Any]) -> None:
    """Change a JSON file of a run directory in place."""
    tree = json.loads((path / name).read_text())
    edit(tree)
    (path / name).write_text(json.dumps(tree))


def rewrite(path: Path, **changes: Any) -> None:
    """Write the checkpoint again, sound in itself, with something else in it."""
    found = read_checkpoint(path)
    assert found is not None
    Checkpoint(**(vars(found) | changes)).write(path)


@contextmanager
def failing_in_private(run: str | Path, why: str) -> Iterator[None]:
    """Expect a run with the operating system's noise to fail, and its private log alone to say why."""
    with pytest.raises(fedsim.RunFailed, match=r"private/log\.txt in its directory says why"):
        yield
    assert why in (Path(run) / "private" / "log.txt").read_text()
