"""Runs of DP-FTRL that a test kills at a chosen point, in this process or by SIGKILL; and their cohorts."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim import Experiment
from fedsim.privacy.account import Account
from fedsim.privacy.cohorts.separated import SeparatedCohorts
from fedsim.results import RunDirectory
from fedsim.server.evaluation import Evaluation
from tests.support.stopping import Killed, die

ROOT = Path(__file__).parents[2]
# Of a round's steps, those after which a kill comes: its cohort is drawn and nobody is asked; it is released, as the
# ledger says; it is evaluated; its row is written, and its checkpoint isn't.
PLACES = ("drawn", "released", "evaluated", "row")
STEPS: dict[str, tuple[type, str, Callable[..., int]]] = {  # the method, and the round by its arguments
    "drawn": (SeparatedCohorts, "draw", lambda round_, clients: round_),
    "released": (Account, "note_released", lambda event: event.round),
    "evaluated": (Evaluation, "scores", lambda round_, *_: round_),
    "row": (RunDirectory, "append_round", lambda row: row["round"]),
}


def watch_draws(patch: pytest.MonkeyPatch, notes: Path) -> None:
    """Have each draw noted in a file of the test's own."""
    draw = SeparatedCohorts.draw

    def drawn(self: SeparatedCohorts, round_: int, clients: int) -> list[int]:
        cohort = draw(self, round_, clients)
        with notes.open("a") as file:
            file.write(json.dumps([round_, cohort]) + "\n")
        return cohort

    patch.setattr(SeparatedCohorts, "draw", drawn)


def die_in(patch: pytest.MonkeyPatch, place: str, round_: int, how: Callable[[], None] = die) -> None:
    """Have a run die in a round, after the step of it that `place` names."""
    kind, name, round_of = STEPS[place]
    real = getattr(kind, name)

    def step(self: Any, *arguments: Any) -> Any:
        result = real(self, *arguments)
        if round_of(*arguments) == round_:
            how()
        return result

    patch.setattr(kind, name, step)


def died(experiment: Experiment, run: Path, notes: Path, place: str, round_: int) -> None:
    """Start a run, or go on with it, and have it die in a round, after a step of it."""
    with pytest.MonkeyPatch.context() as patch:
        watch_draws(patch, notes)
        die_in(patch, place, round_)
        with pytest.raises(Killed):
            go_on_with(experiment, run)


def go_on_with(experiment: Experiment, run: Path) -> None:
    """Start a run, or go on with it."""
    if run.exists():
        fedsim.resume(run)
    else:
        fedsim.run(experiment, run)


def killed(experiment: Experiment, run: Path, notes: Path, place: str, round_: int) -> None:
    """Start a run, or go on with it, in a process of its own, which SIGKILL ends in a round, after a step of it."""
    (run.parent / "dying.toml").write_text(experiment.to_toml())
    code = f"from tests.support.dying import main; main({str(run)!r}, {str(notes)!r}, {place!r}, {round_})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def main(run: str, notes: str, place: str, round_: int) -> None:
    """Run until the kill."""
    patch = pytest.MonkeyPatch()
    watch_draws(patch, Path(notes))
    die_in(patch, place, round_, lambda: os.kill(os.getpid(), signal.SIGKILL))
    os.umask(0)
    go_on_with(Experiment.load(Path(run).parent / "dying.toml"), Path(run))


def participations(notes: Path) -> tuple[Counter[int], dict[int, list[list[int]]]]:
    """Return how often each client took part, by what was drawn, and the cohorts that each round had.

    A client takes part in a round once, however often that is drawn; it takes part if it was in any draw of it.
    """
    rounds: dict[int, list[list[int]]] = {}
    for line in notes.read_text().splitlines():
        number, cohort = json.loads(line)
        rounds.setdefault(number, []).append(cohort)
    counts = Counter(client for cohorts in rounds.values() for client in set(chain.from_iterable(cohorts)))
    return counts, rounds
