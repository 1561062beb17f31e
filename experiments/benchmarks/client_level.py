"""What client-level privacy costs a round: DP-FedAvg beside the same rounds without it, on fedsim.

    python -m experiments.benchmarks.client_level --json client_level.json

The case `cross-device` of `experiments.benchmarks.rounds`: 1,000 clients, 100 a round, 10 examples each, a CNN of
215,370 parameters. Both are under way at once and take their rounds in turn, each while the other waits, so that a
machine that grows slower does so for both; rounds that warm up, and the last, which evaluates, don't count.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.table import Table

import fedsim
from experiments.benchmarks import command, host
from experiments.benchmarks.setting import cache_in, set_up
from experiments.benchmarks.work import CASES, Work
from fedsim.threads import cores

TARGET = 1.05
RUNS = {
    "plain": ["server.weighting=uniform"],
    "dp-fedavg": [
        f"privacy.dp-fedavg.{value}" for value in ("noise-multiplier=1.0", "delta=1e-5", "clip=0.5")
    ],
}
WARMUP = 3


class Turns:
    """Runs that take their rounds in turn; one that has ended has no more turns.

    Args:
        names: Of the runs, in their order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._waiting = list(names)  # the first has the turn
        self._changed = threading.Condition()

    def take(self, name: str) -> None:
        """Give the turn to the next, where it is this run's, and wait until it is again."""
        with self._changed:
            if self._waiting[0] == name:
                self._waiting.append(self._waiting.pop(0))
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting[0] == name)

    def leave(self, name: str) -> None:
        """Have no more turns."""
        with self._changed:
            self._waiting.remove(name)
            self._changed.notify_all()


class InTurn:
    """Lets a run wait for its turn after each round."""

    def __init__(self, turns: Turns, name: str) -> None:
        self._turns = turns
        self._name = name

    def on_round(self, run: fedsim.Run, row: Mapping[str, Any]) -> None:
        """Let the others have a round."""
        self._turns.take(self._name)

    def on_end(self, run: fedsim.Run) -> None:
        """Nothing is left to wait for."""


def seconds_of(folder: Path, repeat: int) -> dict[str, list[float]]:
    """Return the seconds of both runs' rounds, by name, without those that warm up and the one that evaluates."""
    turns = Turns(RUNS)

    def play(name: str) -> list[float]:
        try:
            experiment = fedsim.Experiment.load(folder / "experiment.toml", RUNS[name])
            run = fedsim.run(experiment, folder / f"{name}-{repeat}", trackers=[InTurn(turns, name)])
        finally:
            turns.leave(name)
        return [row["seconds"] for row in run.rows[WARMUP:-1]]

    with ThreadPoolExecutor(len(RUNS)) as threads:
        return dict(zip(RUNS, threads.map(play, RUNS), strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Run both, round by round in turn; print the table and the target."""
    parser = command.arguments(__doc__)
    parser.add_argument("--repeats", type=command.positive, default=5, help="of both (default: 5)")
    parser.add_argument("--rounds", type=command.positive, default=30, help="timed, in a run (default: 30)")
    asked = parser.parse_args(argv)
    found: dict[str, list[float]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        work = Work(CASES["cross-device"], WARMUP, asked.rounds, asked.seed, cores(), folder)
        set_up(work)
        with cache_in(folder):
            for repeat in range(asked.repeats):
                for name, seconds in seconds_of(folder, repeat).items():
                    found[name].append(statistics.median(seconds))
    ratios = [private / plain for plain, private in zip(found["plain"], found["dp-fedavg"], strict=True)]
    table = Table(title="cross-device: seconds a round, medians over repeats")
    for column in ("who", "a round", "lowest to highest"):
        table.add_column(column, no_wrap=True)
    for name, medians in found.items():
        table.add_row(name, f"{statistics.median(medians):.3f}", f"{min(medians):.3f} to {max(medians):.3f}")
    console = command.console()
    console.print(table)
    middle = statistics.median(ratios)
    console.print(
        f"target: at most {TARGET} times a round without privacy; measured: {middle:.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )
    if asked.json:
        asked.json.write_text(
            json.dumps({"host": host.describe(), "seconds": found, "ratios": ratios}, indent=2)
        )


if __name__ == "__main__":
    main()
