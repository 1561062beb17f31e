"""Time of a round with client-level privacy: each mechanism against the same rounds without it, on fedsim.

    python -m fedsim.experiments.benchmarks.client_level --json client_level.json

The case `cross-device` of `fedsim.experiments.benchmarks.rounds`: 1,000 clients, 100 a round, 10 examples each, a CNN
of 215,370 parameters. For each mechanism three runs are active: one without privacy, one with noise added on a grid,
and one with floating-point addition (`privacy.arithmetic`), which gives no guarantee. They take rounds in turn while
the others wait, so that a slower machine affects all; warm-up rounds, and the last, which evaluates, don't count.
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
from fedsim.experiments.benchmarks import command, host
from fedsim.experiments.benchmarks.setting import cache_in, set_up
from fedsim.experiments.benchmarks.work import CASES, Work
from fedsim.threads import cores

TARGET = 1.05
MECHANISMS = {
    "dp-fedavg": ["noise-multiplier=1.0", "delta=1e-5", "clip=0.5"],
    "dp-ftrl": ["noise-multiplier=1.0", "delta=1e-5", "clip=0.5", "min-separation=4"],
    "local-dp": ["noise-multiplier=1.0", "delta=1e-5", "clip=0.5"],
}


def runs_of(mechanism: str) -> dict[str, list[str]]:
    """Return the overrides of each run, by name."""
    private = [f"privacy.{mechanism}.{value}" for value in MECHANISMS[mechanism]]
    if mechanism == "dp-ftrl":
        private.append("server.sampling=b-min-sep")
    return {
        "plain": ["server.weighting=uniform"],
        mechanism: private,
        f"{mechanism} float32": [*private, "privacy.arithmetic=float32"],
    }


WARMUP = 3


class Turns:
    """Runs that take their rounds in turn, until they leave.

    Args:
        names: Names of the runs, in order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._waiting = list(names)  # the first has the turn
        self._changed = threading.Condition()

    def take(self, name: str) -> None:
        """Pass this run's turn, if it has it, to the next, and wait for the next one."""
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
        """Do nothing."""


def seconds_of(runs: Mapping[str, list[str]], folder: Path, repeat: int) -> dict[str, list[float]]:
    """Return the seconds of the runs' rounds, by name, without warm-up rounds and the evaluated one."""
    turns = Turns(runs)

    def play(name: str) -> list[float]:
        try:
            experiment = fedsim.Experiment.load(folder / "experiment.toml", runs[name])
            run = fedsim.run(
                experiment, folder / f"{'-'.join(runs)}-{name}-{repeat}", trackers=[InTurn(turns, name)]
            )
        finally:
            turns.leave(name)
        return [row["seconds"] for row in run.rows[WARMUP:-1]]

    with ThreadPoolExecutor(len(runs)) as threads:
        return dict(zip(runs, threads.map(play, runs), strict=True))


def _ratios(found: Mapping[str, list[float]], name: str, other: str) -> str:
    """Return a round's time as a multiple of another's in the same repeat."""
    ratios = [a / b for a, b in zip(found[name], found[other], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) times {other}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run each mechanism's runs, round by round in turn; print the table and the targets."""
    parser = command.arguments(__doc__)
    parser.add_argument("--repeats", type=command.positive, default=5, help="of all (default: 5)")
    parser.add_argument("--rounds", type=command.positive, default=30, help="timed, in a run (default: 30)")
    asked = parser.parse_args(argv)
    console, tree = command.console(), {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        work = Work(CASES["cross-device"], WARMUP, asked.rounds, asked.seed, cores(), folder)
        set_up(work)
        for mechanism in MECHANISMS:
            runs = runs_of(mechanism)
            found: dict[str, list[float]] = {name: [] for name in runs}
            with cache_in(folder):
                for repeat in range(asked.repeats):
                    for name, seconds in seconds_of(runs, folder, repeat).items():
                        found[name].append(statistics.median(seconds))
            tree[mechanism] = found
            table = Table(title=f"cross-device, {mechanism}: seconds a round, medians over repeats")
            for column in ("who", "a round", "lowest to highest"):
                table.add_column(column, no_wrap=True)
            for name, medians in found.items():
                table.add_row(
                    name, f"{statistics.median(medians):.3f}", f"{min(medians):.3f} to {max(medians):.3f}"
                )
            console.print(table)
            _, grid, in_float32 = runs
            console.print(
                f"{mechanism}: {_ratios(found, grid, in_float32)} (target: at most {TARGET}); "
                f"{_ratios(found, grid, 'plain')}",
                highlight=False,
            )
    if asked.json:
        asked.json.write_text(json.dumps({"host": host.describe(), "seconds": tree}, indent=2) + "\n")


if __name__ == "__main__":
    main()
